"""Functions on tables of runs: configurations, results, their names, rankings of estimators."""
