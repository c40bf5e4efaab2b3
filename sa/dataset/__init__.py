"""Data sets: each file yields the batches a loss is measured on."""
