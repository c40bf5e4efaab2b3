"""The display of a sweep while its points run, and the conditions that stop its driver."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa.launch.plan import LaunchError, Point
from sa.record import lock, telling
from sa.table import names

POLL = 1.0
"""Seconds between two looks at the folders."""

CANCELLED = "cancelled"
"""The file in a sweep's folder that `sa.sweep cancel` replaces; its drivers then stop."""


class Outcomes:
    """Shows how the points of a sweep ended: a line for each, and a bar on a terminal.

    Use it as a context manager.

    Args:
        total: how many points there are to compute.
        max_failures: how many may fail before the driver starts no more; null for no limit.

    """

    def __init__(self, total: int, max_failures: int | None = None):
        self.failed: dict[str, str] = {}
        self._total, self._done, self._max_failures = total, 0, max_failures

    def __enter__(self) -> "Outcomes":
        self._bar = telling.Bar("runs", self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def too_many_failed(self) -> bool:
        """True if so many points failed that the driver should start no more."""
        return self._max_failures is not None and len(self.failed) >= self._max_failures

    def ended(self, point: Point, result: dict[str, Any] | None, error: str | None = None) -> None:
        """Show how a point ended: with a result, or with an error."""
        self._done += 1
        if result is None:
            self.failed[point.run_id] = error = error or "no result"
        telling.quietly("progress bar", lambda: self._show(point, result, error))

    def _show(self, point: Point, result: dict[str, Any] | None, error: str | None) -> None:
        if result is None:
            outcome = f"FAILED: {error.splitlines()[-1] if error else ''}"
        else:
            outcome = f"{_value(point.config, result)}  ({result['seconds']:.1f} s)"
        self._bar.update(self._done)
        self._bar.print(f"{self._done:>4}/{self._total}  {point.label:<48} {outcome}")


def _value(config: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the run's metric as tables write it, or how the run ended."""
    key = config.get("metric") or "value"
    value, loss = result.get(key), result.get("value")
    if not isinstance(value, int | float):
        return str(result.get("status"))
    name = names.NAMES.get(key)
    if name is not None and name.relative:
        if not isinstance(loss, int | float) or not loss:
            return f"{key} {value:.4g}"
        value = value / loss
    if name is not None and name.percent:
        value = 100 * value
    return f"{names.words(key)} {value:.4g}"


class Cancelled:
    """Tells if somebody has cancelled a sweep since this object was made.

    It compares contents of a file, not times, because clocks of two machines differ.
    """

    def __init__(self, folder: Path):
        self._mark = folder / CANCELLED
        self._before = lock.read(self._mark)

    def now(self) -> bool:
        """Return whether the sweep is cancelled by now."""
        return lock.read(self._mark) != self._before

    def stop(self) -> None:
        """Raise LaunchError if the sweep is cancelled."""
        if self.now():
            raise LaunchError("cancelled by `sa.sweep cancel`; repeat the command to go on")

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Send SIGUSR1 to this process if the sweep is cancelled inside the ``with``.

        It ends the run that this process computes, or the parent of a run.
        """
        over = threading.Event()

        def look() -> None:
            while not over.wait(POLL):
                if self.now() and callable(signal.getsignal(signal.SIGUSR1)):
                    os.kill(os.getpid(), signal.SIGUSR1)
                    return

        threading.Thread(target=look, daemon=True, name="cancelled").start()
        try:
            yield
        finally:
            over.set()
