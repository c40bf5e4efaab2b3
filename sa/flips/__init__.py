"""Exact coordinate differences of a loss, computed from how single units change each row's loss."""
