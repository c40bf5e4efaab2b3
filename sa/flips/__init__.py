"""Exact differences from the effect of single units' states on each row's loss."""
