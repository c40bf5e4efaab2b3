"""The display of one training on a terminal, or in a log, while it runs."""

from typing import Any

from sa.record import telling


class Watch:
    """Shows a bar on a terminal; elsewhere it prints a line for each evaluation.

    Args:
        steps: how many steps the training has.
        shown: false shows nothing.

    """

    def __init__(self, steps: int, shown: bool):
        self._steps = steps
        self._bar = telling.Bar("training", steps) if shown and steps else None

    def row(self, row: dict[str, Any]) -> None:
        """Show a row of the record."""
        if self._bar is not None:
            bar = self._bar
            telling.quietly("progress bar", lambda: self._show(row, bar))

    def _show(self, row: dict[str, Any], bar: telling.Bar) -> None:
        if bar.drawn:
            bar.update(row["step"], f"loss {row['loss']:.4f}")
        elif any(k.startswith("test/") for k in row):
            names = [k for k in row if k.endswith(("train/loss", "test/loss", "/accuracy"))]
            scores = "  ".join(f"{k} {row[k]:.4f}" for k in names)
            bar.print(f"step {row['step']}/{self._steps}  {scores}")

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
