"""A laboratory for gradients of networks that have none."""
