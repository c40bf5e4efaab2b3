"""Quantizers: one file each, with the formula of the forward; backwards are the estimators'."""
