"""What is measured about an estimate: (objective, params, estimate, generator) -> numbers."""
