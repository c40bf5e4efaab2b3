"""Datasets: one file each; it loads the training rows and the test rows."""
