"""The signals that end a run or make it save."""

import os
import signal
import threading

from sa.record import lock
from sa.record.run import CANCELLED


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""


class Signals:
    """Handles SIGTERM, SIGUSR1 and SIGUSR2 while a run computes; use it as a context manager.

    `sa.sweep cancel` sends SIGUSR1, which ends the run as interrupted.

    In a SLURM job that our launcher started, the other two set ``to_save``: the run saves at the
    next step and goes on, because SLURM itself kills a job that has to end. SLURM sends SIGUSR2
    before the time limit, so this signal also requeues the job, if the launcher allows that.

    Anywhere else, also in a SLURM job that the user started, the other two end the run.
    """

    def __init__(self) -> None:
        self.to_save = self._ended = False
        self._job = lock.our_job()

    def __enter__(self) -> "Signals":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                self.before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _came(self, number: int, _: object) -> None:
        if number != signal.SIGUSR1 and self._job:
            self.to_save = True
            if number == signal.SIGUSR2 and os.environ.get("SA_REQUEUE") == "1":
                import subprocess

                subprocess.Popen(["scontrol", "requeue", self._job])
        elif not self._ended:  # a second signal would only disturb the record of the first
            self._ended = True
            name = signal.Signals(number).name
            raise Stopped(CANCELLED if number == signal.SIGUSR1 else f"stopped by {name}")
