"""What a run shows on a terminal."""

import sys
from typing import Any

from sa.record import telling


class _Watch:
    """The progress of one training on the terminal: a bar, or a line an evaluation."""

    def __init__(self, steps: int, tell: bool):
        self.total, self.on = steps, tell and steps > 0
        self.bar: Any = None
        if self.on and sys.stdout.isatty():
            telling.quietly("progress bar", self._start)

    def _start(self) -> None:
        from rich.progress import Progress

        bar = Progress()
        bar.start()
        self.task = bar.add_task("training", total=self.total)
        self.bar = bar

    def row(self, row: dict[str, Any]) -> None:
        if self.on:
            telling.quietly("progress bar", lambda: self._row(row))

    def _row(self, row: dict[str, Any]) -> None:
        if self.bar is not None:
            words = f"loss {row['loss']:.4f}"
            self.bar.update(self.task, completed=row["step"], description=words)
        elif any(k.startswith("test/") for k in row):
            scores = [k for k in row if k.endswith(("train/loss", "test/loss", "/accuracy"))]
            told = "  ".join(f"{k} {row[k]:.4f}" for k in scores)
            print(f"step {row['step']}/{self.total}  {told}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            telling.quietly("progress bar", self.bar.stop)
