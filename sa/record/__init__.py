"""The folders of runs and sweeps: ids, files, locks, and which code computed them."""
