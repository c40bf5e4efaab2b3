"""Hydra finds its plugins here; what they do is in `sa.launch.driver` and `sa.launch`."""
