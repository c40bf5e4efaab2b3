"""Hydra finds its plugins here; what they do is in `sa.driver` and `sa.launch`."""
