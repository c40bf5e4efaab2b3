"""An example of a package of your own for sa: one member of every room."""
