"""Which eps and sigma to smooth with: the range that equals the best over seeds, in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sa.table.grouping import configurations

if TYPE_CHECKING:
    import pandas as pd

SCALES = {"epsilon": ("box", "eps"), "sigma": ("gaussian", "sigma")}


def answers(table: "pd.DataFrame", labels: Sequence[str]) -> list[str]:
    """Return a line for each scale and configuration; none if no run has ``analysis=[smoothing]``.

    labels: of every run. The decreases are relative to the loss, held out if there are such rows.
    """
    import pandas as pd

    if "smoothing/cosine" not in table:
        return []
    number = configurations(table[table.attrs["settings"]])
    told = pd.Series(labels, table.index)
    several = number.nunique() > 1
    lines = []
    for scale, (kind, short) in SCALES.items():
        for _, some in table.groupby(number, sort=False):
            about = f"which {short}? {told.loc[some.index[0]]}: " if several else f"which {short}? "
            lines.append(about + _answer(some, scale, kind, short))
    return lines


def _answer(runs: "pd.DataFrame", scale: str, kind: str, short: str) -> str:
    import numpy as np

    from sa.table import ranking

    tried = f"smoothing/{kind}/{scale}"
    done = runs[(runs["status"] == "done") & runs[tried].notna()]
    of = f"{len(done)} of {len(runs)} runs"
    if done.empty:
        return f"nobody knows ({of} done)"
    grid = list(done[tried].iloc[0])
    gains = np.array([_gains(row, kind) for _, row in done.iterrows()])
    if len(done) == 1:  # the noise is that of its rows
        one = done.iloc[0]
        ends = [one.get(f"smoothing/{scale}{end}") for end in ("", "_low", "_high")]
        found = None if any(x not in grid for x in ends) else [grid.index(x) for x in ends]
    else:
        got = ranking.within_noise(gains)
        found = None if got is None else list(got)
    if found is None:
        return f"nobody knows, no decrease is finite ({of})"
    best, low, high = found
    mean = float(np.nanmean(gains[:, best]))
    whose = "held-out loss" if f"smoothing/{kind}/heldout" in done else "loss"
    gain = f"it lowers the {whose} by {mean:.1%}, {of}"
    if mean <= 0:
        return f"none lowers the {whose} ({of})"
    if low == high:
        return f"{short} {grid[best]:g}; no neighbour is within noise of it ({gain})"
    same = f"{grid[low]:g} to {grid[high]:g} are within noise of the best, {grid[best]:g}"
    word = "indifferent: " if high - low == len(grid) - 1 else ""
    return f"{word}{same} ({gain})"


def _gains(row: Any, kind: str) -> list[float]:
    import numpy as np

    held = row.get(f"smoothing/{kind}/heldout")
    told = held if isinstance(held, list | np.ndarray) else row[f"smoothing/{kind}/best"]
    return list(np.asarray(told, float) / row["value"])
