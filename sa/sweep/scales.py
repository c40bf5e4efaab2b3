"""Advice on the eps and sigma to smooth with: the range within noise of the best, in a sentence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sa.table.grouping import configurations

if TYPE_CHECKING:
    import pandas as pd

SCALES = {"epsilon": ("box", "eps"), "sigma": ("gaussian", "sigma")}


def answers(table: "pd.DataFrame", labels: Sequence[str]) -> list[str]:
    """Return a line for each scale and configuration; none if no run has ``analysis=[smoothing]``.

    Decreases are relative to the loss, on held-out rows if there are any.

    Args:
        table: one row for each run.
        labels: the label of each run.

    """
    import pandas as pd

    if "smoothing/cosine" not in table:
        return []
    number = configurations(table[table.attrs["settings"]])
    label = pd.Series(labels, table.index)
    several = number.nunique() > 1
    lines = []
    for scale, (kind, short) in SCALES.items():
        for _, runs in table.groupby(number, sort=False):
            about = f"{label.loc[runs.index[0]]}: " if several else ""
            lines.append(f"which {short}? {about}{_answer(runs, scale, kind, short)}")
    return lines


def _answer(runs: "pd.DataFrame", scale: str, kind: str, short: str) -> str:
    """Return the answer for one scale and the runs of one configuration."""
    import numpy as np

    from sa.table import ranking

    tried = f"smoothing/{kind}/{scale}"
    done = runs[(runs["status"] == "done") & runs[tried].notna()]
    of = f"{len(done)} of {len(runs)} runs"
    if done.empty:
        return f"unknown ({of} are done)"
    grid = list(done[tried].iloc[0])
    gains = np.array([_gains(row, kind) for _, row in done.iterrows()])
    found: list[int] | tuple[int, int, int] | None
    if len(done) == 1:  # one run measures noise over rows
        one = done.iloc[0]
        ends = [one.get(f"smoothing/{scale}{end}") for end in ("", "_low", "_high")]
        found = None if any(x not in grid for x in ends) else [grid.index(x) for x in ends]
    else:
        found = ranking.within_noise(gains)
    if found is None:
        return f"unknown, no decrease is finite ({of})"
    best, low, high = found
    mean = float(np.nanmean(gains[:, best]))
    whose = "held-out loss" if f"smoothing/{kind}/heldout" in done else "loss"
    gain = f"it lowers the {whose} by {mean:.1%}, {of}"
    if mean <= 0:
        return f"no {short} lowers the {whose} ({of})"
    if low == high:
        return f"{short} {grid[best]:g}; no neighbour is within noise of it ({gain})"
    same = f"{grid[low]:g} to {grid[high]:g} are within noise of the best, {grid[best]:g}"
    word = f"any {short} of the grid: " if high - low == len(grid) - 1 else ""
    return f"{word}{same} ({gain})"


def _gains(run: Any, kind: str) -> list[float]:
    """Return the relative decrease of a run at each width of the grid."""
    import numpy as np

    held = run.get(f"smoothing/{kind}/heldout")
    gains = held if isinstance(held, list | np.ndarray) else run[f"smoothing/{kind}/best"]
    return list(np.asarray(gains, float) / run["value"])
