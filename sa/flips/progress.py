"""Shows the progress of long work: a bar on a terminal, else a line on stderr now and then."""

import sys
import time

from sa.record import telling


class Progress:
    """Shows how much of some work is done, once it has taken three seconds.

    Use it as a context manager: its end takes the bar away.

    Args:
        on: whether anything is shown.
        what: the work, in words.
        total: the number of units of work.
        unit: name of the units.

    """

    def __init__(self, on: bool, what: str, total: int, unit: str = "coordinates"):
        self.on, self.what, self.total, self.unit = on, what, total, unit
        self.began = self.last = time.monotonic()
        self.first: int | None = None
        self._bar: telling.Bar | None = None

    def __call__(self, done: int) -> None:
        """Show that so many units are done, unless a number was shown a moment ago."""
        live, now = sys.stderr.isatty(), time.monotonic()
        if self.first is None:  # an earlier process may have done a part: time only ours
            self.first, self.began = done, now
        early = now - self.last < (0.5 if live else 10.0) or now - self.began < 3.0
        if early or not self.on:
            return
        self.last = now
        if self._bar is None:
            self._bar = telling.Bar(f"{self.what}, {self.unit}", self.total, sys.stderr)
        if self._bar.drawn:
            self._bar.update(done)
            return
        left = (now - self.began) * (self.total - done) / max(1, done - self.first)
        words = f"{self.what}: {done} of {self.total} {self.unit}, about {left:.0f} s left"
        print(words, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
