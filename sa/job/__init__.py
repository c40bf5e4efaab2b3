"""One run computed in one process: execution, signals, terminal output, summary."""
