"""Tables to figures: one file a figure kind, each from a DataFrame and with its tidy table."""
