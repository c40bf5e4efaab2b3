"""The folders of runs and sweeps: identity, files, locks, provenance."""
