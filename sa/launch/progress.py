"""What drivers of a sweep tell while they follow it, and when they stop."""

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

POLL = 1.0  # seconds between two looks at the folders

CANCELLED = "cancelled"
"""The file in a sweep's folder that tells its drivers to stop: `sa.sweep cancel` writes it anew."""


class Board:
    """What has ended, a line a point, and a bar on a terminal; use it as a context manager."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.failed: dict[str, str] = {}
        self._bar: Any = None

    def __enter__(self) -> "Board":
        telling.quietly("progress bar", self._start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            telling.quietly("progress bar", self._bar.stop)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(soft_wrap=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        bar = Progress(*columns, console=console, disable=not console.is_terminal)
        bar.add_task("runs", total=self.total)
        bar.start()
        self._bar = bar

    def ended(self, point: Point, result: dict[str, Any] | None, error: str | None = None) -> None:
        """Say how a point ended: with a result, or an error."""
        self.done += 1
        if result is None:
            self.failed[point.run_id] = error = error or "no result"
        telling.quietly("progress bar", lambda: self._print(point, result, error))

    def _print(self, point: Point, result: dict[str, Any] | None, error: str | None) -> None:
        if result is None:
            told = f"FAILED: {error.splitlines()[-1] if error else ''}"
        else:
            told = f"{_told(point.config, result)}  ({result['seconds']:.1f} s)"
        line = f"{self.done:>4}/{self.total}  {point.label:<48} {told}"
        if self._bar is None:
            print(line, flush=True)
            return
        self._bar.advance(self._bar.tasks[0].id)
        self._bar.console.print(line, highlight=False, markup=False)


def _told(config: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the run's objective as tables name it, or how it ended."""
    key = config.get("objective") or "value"
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
    """Whether somebody cancels a sweep after this was made: no two clocks are compared."""

    def __init__(self, folder: Path):
        self._mark = folder / CANCELLED
        self._before = lock.read(self._mark)

    def now(self) -> bool:
        """Whether somebody has by now."""
        return lock.read(self._mark) != self._before

    def stop(self) -> None:
        """Raise LaunchError if so."""
        if self.now():
            raise LaunchError("cancelled by `sa.sweep cancel`; repeat the command to go on")

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """End what this process computes by SIGUSR1 if so: a run, or the parent of one."""
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


def enough(board: Board, most: int | None) -> bool:
    """Whether as many points have failed as may."""
    return most is not None and len(board.failed) >= most
