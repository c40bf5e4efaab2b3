"""Models: frozen dataclasses that describe networks and build them."""
