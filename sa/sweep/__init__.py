"""Follow and read sweeps, ``python -m sa.sweep COMMAND NAME``: all from the folders of their runs.

Nothing here computes a run; `status` answers for a thousand runs at once.
"""
