"""The command line: the catalogue of conf/, and every check that is made before any work."""
