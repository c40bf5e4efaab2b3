"""Analyses of an estimate: (objective, params, estimate, generator, at) -> numbers."""
