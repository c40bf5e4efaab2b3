"""Running the points of a sweep: in this process, in a pool of processes, or as SLURM arrays.

The driver of a sweep only starts points and reads their folders. If it is killed, repeat its
command to go on. Whether a run succeeded is read from its folder, never from a scheduler.
"""
