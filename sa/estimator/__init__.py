"""Gradient estimators: (objective, params, state, generator) -> Estimate."""
