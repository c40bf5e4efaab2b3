"""What can be typed: the catalogue read from conf/, and every check made before any work."""
