"""The plugins that Hydra finds; `sa.launch.driver` and `sa.launch` do their work."""
