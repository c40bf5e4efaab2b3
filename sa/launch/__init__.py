"""Where the points of a sweep run: here, in a bounded pool of processes, or as SLURM arrays.

A driver only starts points and follows their folders: it may be killed at any time, and repeating
its command goes on. Whether a run is good is read from its folder, never from a scheduler.
"""
