"""Mirrors of a run outside its folder: W&B and its dashboard."""
