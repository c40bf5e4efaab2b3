"""The figure kind, and what all kinds share: panels, colours, required columns, rows over steps."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
"""Axis labels for columns whose names say too little."""

MEANS = "lines: means over seeds; bands: least to most over seeds"
INTERVALS = "lines: means over seeds; bands: their 95 % intervals"
MEDIANS = "lines: medians over seeds; bands: least to most over seeds"
POINTS = "points: means over seeds; bars: least to most over seeds"
"""Captions: what the lines, points and bars of a kind show over seeds."""

ORDER = ("ste", "cdg", "nes", "random")
"""The estimators that have the same colours in every figure, in the order of legends."""


Canvas = Figure | SubFigure
Sheet = Callable[[float, float], Canvas]
"""A function that returns the canvas of a kind, given a width and a height in inches."""

Shown = str | Callable[[pd.DataFrame], pd.Series]
"""A column of the table, or a function that computes one from the table."""


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Args:
        paint: draws a table on a sheet; returns the canvas and the tidy table of what is drawn.
        shows: the columns that its axes, colours and panels distinguish. Runs that differ in
            another setting are drawn in separate rows of panels.
        spread: what its lines, bands and bars show over seeds, for the caption.
        prepare: returns the table to draw of the table given; None draws the table given.

    """

    paint: Callable[[pd.DataFrame, Sheet], tuple[Canvas, pd.DataFrame]]
    shows: tuple[Shown, ...]
    spread: str
    prepare: Callable[[pd.DataFrame], pd.DataFrame] | None = None

    def columns(self, table: pd.DataFrame) -> list[pd.Series]:
        """Return the columns that it distinguishes, a value for each run."""
        columns = [c(table) if callable(c) else table.get(c) for c in self.shows]
        return [c for c in columns if c is not None]

    def __call__(
        self, table: pd.DataFrame, sheet: Sheet | None = None
    ) -> tuple[Canvas, pd.DataFrame]:
        """Draw the table on a sheet, by default on a new figure."""
        return self.paint(table, sheet or new_figure)


def kind(
    *shows: Shown, spread: str
) -> Callable[[Callable[[pd.DataFrame, Sheet], tuple[Canvas, pd.DataFrame]]], Kind]:
    """Return a decorator that makes a `Kind` of the function that paints it."""
    return lambda paint: Kind(paint, shows, spread)


def new_figure(width: float, height: float) -> Figure:
    """Return a new figure. Pyplot does not know it, so no global state is left behind."""
    return Figure(figsize=(width, height), dpi=200)


def panels(
    sheet: Sheet, count: int, sharey: bool | Literal["row"] = False, columns: int = 0
) -> tuple[Canvas, list[Axes]]:
    """Return a canvas and its panels.

    Args:
        sheet: what to draw on.
        count: the number of panels.
        sharey: all panels have the same y axis; ``row``: the panels of each row have.
        columns: panels in a row; by default all of up to four panels, else three.

    """
    columns = columns or (count if count <= 4 else 3)
    rows = -(-count // columns)
    figure = sheet(max(4.2, PANEL * columns), 3.1 if rows == 1 else 2.5 * rows)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def need(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if a column is missing, or if no run has all of the columns."""
    missing = [c for c in columns if c not in table]
    if missing:
        found = dict.fromkeys(c.partition("/")[0] for c in missing if "/" in c)
        names = ",".join(k for k in found if k not in ("train", "test"))
        remedy = f"; repeat the sweep with analysis=[{names}]" if names else ""
        raise ValueError(f"the table has no column {', '.join(missing)}{remedy}")
    if table[list(columns)].dropna().empty:
        raise ValueError(f"no run has a value of {', '.join(columns)}")


MISSED = "steps$|plateau"
"""A pattern that matches the start of ``stopped`` if a training did not reach its goal."""


def rows_of(table: pd.DataFrame) -> Callable[[pd.Series], pd.DataFrame]:
    """Return a function from a run (a row of the table) to the table of its steps.

    Raises:
        ValueError: ``table.attrs["rows"]``, which reads the steps, is missing.

    """
    rows = table.attrs.get("rows")
    if rows is None:
        raise ValueError(
            "this figure shows values over steps, and the table has one row a run; draw it with "
            "`python -m sa.sweep report NAME`"
        )
    return lambda run: pd.DataFrame(rows(run["run_id"]))


def history(table: pd.DataFrame, settings: Sequence[str], *results: str) -> pd.DataFrame:
    """Return the steps of all runs in one table, without rows that lack a result.

    Args:
        table: the runs.
        settings: columns of the table to repeat in every step of a run.
        results: columns of the steps.

    Raises:
        ValueError: the steps cannot be read, as in `rows_of`.

    """
    rows, found = rows_of(table), []
    for _, run in table.iterrows():
        steps = rows(run).reindex(columns=["step", *results]).dropna()
        found.append(steps.assign(**{k: run[k] for k in settings}))
    return pd.concat(found, ignore_index=True)


def expected_values(table: pd.DataFrame) -> dict[str, float]:
    """Return the middle of every ``between`` expectation of the study, by its id."""
    found = table.attrs.get("expectations") or []
    return {e["id"]: sum(e["value"]) / 2 for e in found if e["predicate"] == "between"}


def tau_label(tidy: pd.DataFrame, x: str, y: str) -> str:
    """Return ``τ = mean [least, most]`` of Kendall's tau of two columns within each seed."""
    taus = pd.Series([ranking.kendall(s[x], s[y]) for _, s in tidy.groupby("seed")]).dropna()
    if taus.empty:
        return "no τ: no seed has three trainings"
    return f"τ = {taus.mean():.2f} [{taus.min():.2f}, {taus.max():.2f}], {len(taus)} seeds"


def number_of(text: str) -> float | None:
    """Return a text as a number, or None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def palette(labels: pd.Series) -> dict[str, Any]:
    """Return a colour for each label. The estimators of `ORDER` have the same one everywhere.

    Labels that are all numbers get the colours of a scale, by their size. Of other labels the first
    ten colours are safe for colour-blind readers; further labels get spread hues.
    """
    if labels.nunique() > 1 and all(number_of(x) is not None for x in labels):
        by_size = sorted(set(labels), key=float)
        return dict(zip(by_size, sns.color_palette("viridis", len(by_size)), strict=True))
    tones = sns.color_palette("colorblind", 10)
    fixed = dict(zip(ORDER, (tones[0], tones[3], tones[2], (0.45, 0.45, 0.45)), strict=True))
    ordered = sorted(set(labels), key=lambda x: (_rank(x), _natural_key(x)))
    out: dict[str, Any] = {}
    for label in ordered:
        if (own := fixed.pop(label.split()[0].lower(), None)) is not None:
            out[label] = own
    spare = [tones[i] for i in (1, 4, 5, 6, 8, 9)] + [v for k, v in fixed.items() if k != "random"]
    left = [x for x in ordered if x not in out]
    spare += sns.husl_palette(max(0, len(left) - len(spare)), s=0.7, l=0.5)
    out |= dict(zip(left, spare, strict=False))
    return {x: out[x] for x in ordered}


def hues(names: Sequence[Any]) -> dict[Any, Any]:
    """Return a different colour for each name, in the order given."""
    if len(names) <= 10:
        return dict(zip(names, sns.color_palette("colorblind", 10), strict=False))
    return dict(zip(names, sns.husl_palette(len(names), s=0.8, l=0.5), strict=True))


def _natural_key(label: str) -> list[str | float]:
    """Return a key that sorts labels by the numbers in them: N=50 comes before N=100."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", label)
    return [float(part) if at % 2 else part for at, part in enumerate(parts)]


def _rank(label: str) -> int:
    """Return the place of a label's estimator in `ORDER`; its length for other estimators."""
    first = label.split()[0].lower()
    return ORDER.index(first) if first in ORDER else len(ORDER)
