"""Commands that follow and read sweeps, ``python -m sa.sweep COMMAND NAME``.

They read the folders of the runs and compute no run; `status` reads a thousand runs at once.
"""
