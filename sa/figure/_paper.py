"""What all figures share: kinds, panels, colours, labels, axes, legends."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from sa.table import ranking

PANEL = 3.35  # inches: a column of a two-column paper
STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.4, "axes.linewidth": 0.7,
    "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip
AXES = {"sample": "rows seen", "flops": "FLOPs of the forward-equivalents"}
"""What an axis of trainings is called where its column's name says too little."""

MEANS = "lines: means over seeds; bands: least to most over seeds"
MEDIANS = "lines: medians over seeds; bands: least to most over seeds"
POINTS = "points: means over seeds; bars: least to most over seeds"
"""What kinds say of their spread."""

ORDER = ("ste", "cdg", "nes", "random")  # the first colours, the same in every figure


Canvas = Figure | SubFigure
Sheet = Callable[[float, float], Canvas]
"""Gives a kind what it draws on, for a width and a height in inches."""

Shown = str | Callable[[pd.DataFrame], pd.Series]
"""A column of the table, or what makes one of it."""


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    paint: draws a table on a sheet, and returns the canvas and the tidy table it shows.
    shows: the columns that its axes, colours and panels tell apart. Runs that differ in another
        setting are drawn in rows of panels of their own.
    told: what its lines, bands and bars are, over the replicate.
    """

    paint: Callable[[pd.DataFrame, Sheet], tuple[Canvas, pd.DataFrame]]
    shows: tuple[Shown, ...]
    told: str

    def columns(self, table: pd.DataFrame) -> list[pd.Series]:
        """What it shows of each run."""
        made = [c(table) if callable(c) else table.get(c) for c in self.shows]
        return [c for c in made if c is not None]

    def __call__(
        self, table: pd.DataFrame, sheet: Sheet | None = None
    ) -> tuple[Canvas, pd.DataFrame]:
        """Draw the table; without a sheet as a figure of its own."""
        return self.paint(table, sheet or alone)


def kind(
    *shows: Shown, told: str
) -> Callable[[Callable[[pd.DataFrame, Sheet], tuple[Canvas, pd.DataFrame]]], Kind]:
    """Make a kind of the function that paints it."""
    return lambda paint: Kind(paint, shows, told)


def alone(width: float, height: float) -> Figure:
    """A figure of its own. It is not known to pyplot, so nothing global is left."""
    return Figure(figsize=(width, height), dpi=200)


def panels(
    sheet: Sheet, count: int, sharey: bool = False, columns: int = 0
) -> tuple[Canvas, list[Axes]]:
    """Panels beside each other; without columns in rows of three where there are more than four."""
    columns = columns or (count if count <= 4 else 3)
    rows = -(-count // columns)
    figure = sheet(max(4.2, PANEL * columns), 3.1 if rows == 1 else 2.5 * rows)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def need(table: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError where a column is missing, or no run has all of them."""
    missing = [c for c in columns if c not in table]
    if missing:
        found = dict.fromkeys(c.partition("/")[0] for c in missing if "/" in c)
        names = ",".join(k for k in found if k not in ("train", "test"))
        analysed = f"were analysed (analysis=[{names}])" if names else "have them"
        raise ValueError(
            f"the table has no column {', '.join(missing)}; `python -m sa.sweep collect` makes "
            f"them where the runs {analysed}"
        )
    if table[list(columns)].dropna().empty:
        raise ValueError("no run has a result to draw")


def numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; nan where a run failed, or everywhere where there is no such column."""
    given = table[column] if column in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(given, errors="coerce").astype(float)


def steps(table: pd.DataFrame) -> Callable[[pd.Series], pd.DataFrame]:
    """What gives the rows over steps of a run, a row of the table.

    Raises ValueError where the table does not come with the rows of its runs.
    """
    rows = table.attrs.get("rows")
    if rows is None:
        raise ValueError("the table comes without the rows of its runs: `sa.sweep report` draws it")
    return lambda run: pd.DataFrame(rows(run["run_id"]))


def history(table: pd.DataFrame, settings: Sequence[str], *results: str) -> pd.DataFrame:
    """The rows over steps of all runs, with these settings of theirs and these results, none nan.

    Raises ValueError as `steps` does.
    """
    rows, found = steps(table), []
    for _, run in table.iterrows():
        mine = rows(run).reindex(columns=["step", *results]).dropna()
        found.append(mine.assign(**{k: run[k] for k in settings}))
    return pd.concat(found, ignore_index=True)


def references(table: pd.DataFrame) -> dict[str, float]:
    """The middle, by id, of what the study expects, of expectations that have two ends."""
    found = table.attrs.get("expectations") or []
    return {e["id"]: sum(e["value"]) / 2 for e in found if e["predicate"] == "between"}


def order(tidy: pd.DataFrame, x: str, y: str) -> str:
    """Kendall's tau of two columns within each seed, in words: the mean, the least and the most."""
    taus = pd.Series([ranking.kendall(s[x], s[y]) for _, s in tidy.groupby("seed")]).dropna()
    if taus.empty:
        return "no seed has three trainings to order"
    return f"τ = {taus.mean():.2f} [{taus.min():.2f}, {taus.max():.2f}] of {len(taus)} seeds"


def palette(labels: pd.Series) -> dict[str, Any]:
    """Label -> colour: colour-blind safe, the familiar estimators always in their own.

    Ten colours differ for everybody; of more labels the rest are spread over the hues.
    """
    tones = sns.color_palette("colorblind", 10)
    fixed = dict(zip(ORDER, (tones[0], tones[3], tones[2], (0.45, 0.45, 0.45)), strict=True))
    there = sorted(set(labels), key=lambda x: (_rank(x), _natural(x)))
    out: dict[str, Any] = {}
    for label in there:
        if (own := fixed.pop(label.split()[0].lower(), None)) is not None:
            out[label] = own
    spare = [tones[i] for i in (1, 4, 5, 6, 8, 9)] + [v for k, v in fixed.items() if k != "random"]
    left = [x for x in there if x not in out]
    spare += sns.husl_palette(max(0, len(left) - len(spare)), s=0.7, l=0.5)
    out |= dict(zip(left, spare, strict=False))
    return {x: out[x] for x in there}


def hues(names: Sequence[Any]) -> dict[Any, Any]:
    """Name -> colour, in the order given, all different."""
    if len(names) <= 10:
        return dict(zip(names, sns.color_palette("colorblind", 10), strict=False))
    return dict(zip(names, sns.husl_palette(len(names), s=0.8, l=0.5), strict=True))


def _natural(label: str) -> list[str | float]:
    """What sorts labels by the numbers in them: N=50 comes before N=100."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", label)
    return [float(part) if at % 2 else part for at, part in enumerate(parts)]


def _rank(label: str) -> int:
    first = label.split()[0].lower()
    return ORDER.index(first) if first in ORDER else len(ORDER)
