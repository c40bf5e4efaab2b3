"""Networks: layers, their structure as data, how it is read, quantization by rules."""
