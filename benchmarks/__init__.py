"""Speed ratios, each measured within one process: `python -m benchmarks [NAME ...]`."""
