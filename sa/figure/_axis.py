"""Axes, bands and legends that figures share."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import Formatter, LogFormatter, NullFormatter, NullLocator

from sa.figure._paper import Canvas


def shade_null(axis: Axes, x: Any, low: Any, high: Any, label: str) -> None:
    """Shade where random directions lie, from low to high; over all the axis at one x alone."""
    style: dict[str, Any] = {"color": "0.87", "lw": 0, "zorder": 0, "label": label}
    if np.size(x) > 1:
        axis.fill_between(x, low, high, **style)
    elif np.size(x):
        axis.axhspan(float(np.ravel(low)[0]), float(np.ravel(high)[0]), **style)


def level(axis: Axes, got: pd.Series, *style: str, **more: Any) -> None:
    """A line through the values by x; across all the axis at one x alone."""
    got = got.dropna()
    if len(got) == 1:
        more = {"ls": style[0]} | more if style else more
        axis.axhline(float(got.iloc[0]), **more)
    elif len(got):
        axis.plot(got.index, got, *style, **more)


def beside(table: pd.DataFrame, count: int) -> list[float]:
    """What x is multiplied with (or, at one place, x itself) for so many labels side by side."""
    spread = 0.045 if table["x"].nunique() > 1 else 0.5 / max(count, 1)
    return [float(2 ** (spread * (at - (count - 1) / 2))) for at in range(count)]


def reach(got: pd.DataFrame) -> list[pd.Series]:
    """Return how far bars reach below and above the column ``mean``: to ``min`` and to ``max``.

    Never less than 0: the mean of equal values may lie beside them by rounding.
    """
    return [(got["mean"] - got["min"]).clip(lower=0), (got["max"] - got["mean"]).clip(lower=0)]


def horizontal(axis: Axes, table: pd.DataFrame) -> None:
    """The horizontal axis of what has one number a run: ``x`` of `prepared`."""
    there = sorted(table["x"].unique())
    if len(there) < 2:
        axis.set_xscale("log", base=2)
        axis.set_xticks([])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(xlim=(0.6, 1.65), xlabel=" ".join(table["facet"].unique()))
        return
    axis.set_xlabel(table.attrs["x"])
    if there[0] <= 0:
        axis.set_xticks(there, [f"{x:g}" for x in there])
        return
    axis.set_xscale("log", base=2)
    room = int(axis.bbox.width / axis.figure.dpi / 0.32)
    kept = there[:: max(1, -(-len(there) // max(1, room)))]
    axis.set_xticks(kept, [f"{x:g}" for x in kept])
    axis.xaxis.set_minor_formatter(NullFormatter())


def mark_below(axis: Axes, floor: float) -> None:
    """A triangle where a line goes on below the panel, whose lower end is floor."""
    for line in list(axis.lines):
        x, y = (np.asarray(v, float) for v in line.get_data())
        falls = np.flatnonzero((y[:-1] >= floor) & (y[1:] < floor))
        if len(falls):
            at, colour = x[falls[:1]], line.get_color()
            axis.plot(at, [floor], "v", ms=4, color=colour, clip_on=False, gid="below")


class Percent(Formatter):
    """Ticks in percent, with as many decimals as keep neighbouring ticks apart."""

    def __init__(self) -> None:
        self._decimals = 0

    def set_locs(self, locs: Any) -> None:
        """Choose the decimals, so that no tick is rounded by a tenth of their distance."""
        ticks = 100 * np.asarray(locs, float)
        gaps = np.diff(np.unique(ticks))
        least = float(gaps[gaps > 1e-12].min()) if (gaps > 1e-12).any() else 1.0
        fit = (d for d in range(12) if np.abs(ticks - ticks.round(d)).max(initial=0.0) < least / 10)
        self._decimals = next(fit, 12)

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The tick at x, a share."""
        told = f"{100 * x:.{self._decimals}f}" if self._decimals <= 6 else f"{100 * x:.3g}"
        return f"{told.lstrip('-')} %" if float(told) == 0 else f"{told} %"


def thin(figure: Figure) -> None:
    """Label at most five ticks between powers of ten, where those have too few labels of their own.

    Matplotlib labels all of them on a logarithmic axis of less than half a decade, overlapping.
    """
    for panel in figure.axes:
        for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            low, high = sorted(limits)
            minor = [x for x in axis.get_minorticklocs() if low <= x <= high]
            major = [x for x in axis.get_majorticklocs() if low <= x <= high]
            default = isinstance(axis.get_minor_formatter(), LogFormatter)  # a kind chose its own
            if default and len(minor) > 2 and len(major) < 2:
                few = {f"{x:g}" for x in minor[:: -(-len(minor) // 5)]}
                axis.set_minor_formatter(Few(few))


class Few(Formatter):
    """Labels only the ticks whose text is in ``labels``."""

    def __init__(self, labels: set[str]):
        self._labels = labels

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of the tick at x."""
        text = f"{x:g}"
        return text if text in self._labels else ""


def percent(*axes: Axis) -> None:
    """Ticks of shares in percent."""
    for axis in axes:
        axis.set_major_formatter(Percent())


def columns(figure: Canvas, labels: Sequence[str], most: int) -> int:
    """How many columns of a legend with these labels fit below a figure, 1 to ``most``."""
    widest = max((_inches(x) for x in labels), default=0.0)
    return max(1, min(most, int((_width(figure) - 0.1) / (widest + 0.5))))


def _inches(text: str) -> float:
    """The width of a text in a legend."""
    size = FontProperties(size=7)
    lines = [TextPath((0, 0), x, prop=size).get_extents().width for x in text.split("\n") if x]
    return max(map(float, lines), default=0.0) / 72


def _width(figure: Canvas) -> float:
    return float(figure.bbox.width / figure.dpi)


def legend(figure: Canvas, *axes: Axes, title: str = "", handles: Sequence[Any] = ()) -> None:
    """One legend below all panels of what they label, each name once; the figure grows by it.

    handles: instead of what the axes label.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found |= {h.get_label(): h for h in handles}
    if not found:
        return
    room = int((_width(figure) - 0.6) / 0.062)
    labels = ["\n".join(textwrap.wrap(x, room)) for x in found]
    side = columns(figure, labels, 6)
    figure.legend(
        list(found.values()), labels, loc="outside lower center", ncols=side, frameon=False,
        title=title, title_fontsize=6.5,
    )  # fmt: skip
    lines = -(-len(labels) // side) * max(x.count("\n") + 1 for x in labels) + bool(title)
    if isinstance(figure, Figure):
        figure.set_figheight(figure.get_figheight() + 0.14 * (lines - 1))


def other(axis: Axes, style: str, label: str, **more: Any) -> None:
    """Have a legend say what lines of a style are."""
    axis.plot([], [], style, **{"color": "0.3", "label": label, **more})


def common(runs: Sequence[pd.DataFrame]) -> np.ndarray:
    """A logarithmic grid over the step lengths that all the runs have measured."""
    low = max(r["lr"].min() for r in runs)
    high = min(r["lr"].max() for r in runs)
    return np.geomspace(low, max(low, high), 160)


def stack(runs: Sequence[pd.DataFrame], grid: np.ndarray, column: str) -> np.ndarray:
    """Lines (runs, grid), linear in the logarithm of the step length."""
    return np.stack([np.interp(np.log(grid), np.log(r["lr"]), r[column]) for r in runs])
