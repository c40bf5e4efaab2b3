"""Gradient estimators: (objective, params, state, generator, at) -> Estimate."""
