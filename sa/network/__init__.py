"""Networks: layers, their structure as data, readers of that structure, quantization by rules."""
