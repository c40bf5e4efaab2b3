"""What drivers of a sweep tell while they follow it, and when they stop."""

from pathlib import Path
from typing import Any

from sa.launch.plan import LaunchError, Point

POLL = 1.0  # seconds between two looks at the folders

CANCELLED = "cancelled"
"""The file in a sweep's folder that tells its drivers to stop: touched by `sa.sweep cancel`."""


class Board:
    """What has ended, a line a point, and a bar on a terminal."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.total, self.done = total, 0
        self.failed: dict[str, str] = {}
        self.console = Console(soft_wrap=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("runs", total=total)

    def ended(self, point: Point, result: dict[str, Any] | None, error: str | None = None) -> None:
        """Say how a point ended: with a result, or an error."""
        if result is None:
            error = error or "no result"
            self.failed[point.run_id] = error
            told = f"FAILED: {error.splitlines()[-1] if error else ''}"
        else:
            told = f"{_told(point.config, result)}  ({result['seconds']:.1f} s)"
        self.done += 1
        self.bar.advance(self.task)
        self.console.print(
            f"{self.done:>4}/{self.total}  {point.label:<48} {told}",
            highlight=False, markup=False,
        )  # fmt: skip


def _told(config: dict[str, Any], result: dict[str, Any]) -> str:
    key = config.get("objective") or "value"
    value = result.get(key)
    return f"{key} {value:.4g}" if isinstance(value, int | float) else str(result.get("status"))


def stop_if_cancelled(folder: Path, began: float) -> None:
    """Raise LaunchError where somebody cancelled the sweep after a driver began."""
    mark = folder / CANCELLED
    if mark.exists() and mark.stat().st_mtime > began:
        raise LaunchError("cancelled by `sa.sweep cancel`; repeat the command to go on")


def enough(board: Board, most: int | None) -> bool:
    """Whether as many points have failed as may."""
    return most is not None and len(board.failed) >= most
