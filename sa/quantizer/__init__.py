"""Step functions and their smooth surroundings: forward formulas only."""
