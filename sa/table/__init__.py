"""What tables of runs share: groups of configurations, names of numbers, rankings."""
