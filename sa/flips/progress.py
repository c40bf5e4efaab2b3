"""How far long work is, told on stderr."""

import sys
import time


class Progress:
    """Tells how much of some work is done: one rewritten line on a terminal, else a line at times.

    Args:
        on: whether anything is told.
        what: the work, in words.
        total: how many units of work there are.
        unit: what is counted.

    """

    def __init__(self, on: bool, what: str, total: int, unit: str = "coordinates"):
        self.on, self.what, self.total, self.unit = on, what, total, unit
        self.began = self.last = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int) -> None:
        """Tell that so many units are done, unless that was told a moment ago."""
        live, now = sys.stderr.isatty(), time.monotonic()
        if self.first is None:  # an earlier process may have done a part: count from here
            self.first, self.began = done, now
        early = now - self.last < (0.5 if live else 10.0) or now - self.began < 3.0
        if early or not self.on:
            return
        self.last = now
        left = (now - self.began) * (self.total - done) / max(1, done - self.first)
        words = f"{self.what}: {done} of {self.total} {self.unit}, about {left:.0f} s left"
        print(
            f"\r{words}   " if live else words,
            end="" if live else "\n",
            file=sys.stderr,
            flush=True,
        )
