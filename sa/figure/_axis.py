"""Axes, bands, ticks and legends that figures share."""

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

from sa.figure._base import Canvas
from sa.table.results import half_width


def shade_null(axis: Axes, x: Any, low: Any, high: Any, label: str) -> None:
    """Shade the range of random directions, low to high; over the whole width if x is one value."""
    style: dict[str, Any] = {"color": "0.87", "lw": 0, "zorder": 0, "label": label}
    if np.size(x) > 1:
        axis.fill_between(x, low, high, **style)
    elif np.size(x):
        axis.axhspan(float(np.ravel(low)[0]), float(np.ravel(high)[0]), **style)


def level(axis: Axes, values: pd.Series, *style: str, **more: Any) -> None:
    """Draw a line through the values by x; over the whole width if there is one x."""
    values = values.dropna()
    if len(values) == 1:
        more = {"ls": style[0]} | more if style else more
        axis.axhline(float(values.iloc[0]), **more)
    elif len(values):
        axis.plot(values.index, values, *style, **more)


def over_seeds(groups: Any, middle: str = "mean", interval: bool = False) -> pd.DataFrame:
    """Return the middle of each group, and from where (min) to where (max) its values reach.

    Args:
        groups: the values, grouped by x.
        middle: ``mean`` or ``median``.
        interval: true for the 95 % interval of the mean instead of the least and the most.

    """
    found: pd.DataFrame = groups.agg([middle, "min", "max"])
    if interval:
        reach = groups.agg(half_width)
        found = found.assign(min=found[middle] - reach, max=found[middle] + reach)
    return found


def band(
    axis: Axes, groups: Any, style: str = "-", middle: str = "mean", interval: bool = False,
    **more: Any,
) -> None:  # fmt: skip
    """Draw a line through the middle of each group, and a band as `over_seeds` returns it.

    Args:
        axis: the panel.
        groups: the values, grouped by x: ``values.groupby(x)``.
        style: style of the line.
        middle: ``mean`` or ``median``.
        interval: true for a band of the 95 % interval of the mean.
        more: colour, label and width of the line.

    """
    found = over_seeds(groups, middle, interval)
    axis.plot(found.index, found[middle], style, **more)
    axis.fill_between(
        found.index, found["min"], found["max"], color=more["color"], alpha=0.15, lw=0
    )


def dodge(table: pd.DataFrame, count: int) -> list[float]:
    """Return a factor of x for each of ``count`` labels, so that their points lie side by side."""
    spread = 0.045 if table["x"].nunique() > 1 else 0.5 / max(count, 1)
    return [float(2 ** (spread * (at - (count - 1) / 2))) for at in range(count)]


def error_bars(found: pd.DataFrame) -> list[pd.Series]:
    """Return the lengths of error bars from the column ``mean`` down to ``min`` and up to ``max``.

    No length is below 0, although the mean of equal values can differ from them by rounding.
    """
    low, high = found["mean"] - found["min"], found["max"] - found["mean"]
    return [low.clip(lower=0), high.clip(lower=0)]


def x_axis(axis: Axes, table: pd.DataFrame) -> None:
    """Set scale, ticks and label of a horizontal axis that shows ``x`` of `prepared`."""
    values = sorted(table["x"].unique())
    if len(values) < 2:
        axis.set_xscale("log", base=2)
        axis.set_xticks([])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(xlim=(0.6, 1.65), xlabel=" ".join(table["facet"].unique()))
        return
    axis.set_xlabel(table.attrs["x"])
    if values[0] <= 0:
        axis.set_xticks(values, [f"{x:g}" for x in values])
        return
    axis.set_xscale("log", base=2)
    room = int(axis.bbox.width / axis.figure.dpi / 0.32)
    ticks = values[:: max(1, -(-len(values) // max(1, room)))]
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def mark_below(axis: Axes, floor: float) -> None:
    """Mark with a triangle where a line leaves the panel through its lower end, ``floor``."""
    for line in list(axis.lines):
        x, y = (np.asarray(v, float) for v in line.get_data())
        falls = np.flatnonzero((y[:-1] >= floor) & (y[1:] < floor))
        if len(falls):
            at, colour = x[falls[:1]], line.get_color()
            axis.plot(at, [floor], "v", ms=4, color=colour, clip_on=False, gid="below")


class Percent(Formatter):
    """Ticks in percent, with enough decimals that neighbouring ticks differ."""

    def __init__(self) -> None:
        self._decimals = 0

    def set_locs(self, locs: Any) -> None:
        """Choose the decimals: rounding moves no tick by a tenth of the distance of two ticks."""
        ticks = 100 * np.asarray(locs, float)
        gaps = np.diff(np.unique(ticks))
        least = float(gaps[gaps > 1e-12].min()) if (gaps > 1e-12).any() else 1.0
        fit = (d for d in range(12) if np.abs(ticks - ticks.round(d)).max(initial=0.0) < least / 10)
        self._decimals = next(fit, 12)

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the text of the tick at x, a share of 1."""
        text = f"{100 * x:.{self._decimals}f}" if self._decimals <= 6 else f"{100 * x:.3g}"
        return f"{text.lstrip('-')} %" if float(text) == 0 else f"{text} %"


def thin_log_ticks(figure: Figure) -> None:
    """Label at most five ticks between powers of ten, on axes that show less than two powers.

    Matplotlib labels all of them there, and the labels overlap. A tick next to a power of ten, such
    as 0.09, gets none for the same reason. Side by side, numbers of more than four digits need more
    room: of these only 2 and 5 times a power of ten are labelled.
    """
    for panel in figure.axes:
        for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            low, high = sorted(limits)
            minor = [x for x in axis.get_minorticklocs() if low <= x <= high]
            major = [x for x in axis.get_majorticklocs() if low <= x <= high]
            default = isinstance(axis.get_minor_formatter(), LogFormatter)  # else a kind chose it
            if default and len(minor) > 2 and len(major) < 2:
                minor = [x for x in minor if not any(0.8 < x / m < 1.25 for m in major if m)]
                texts = [f"{x:g}" for x in minor]
                few = texts[:: max(1, -(-len(texts) // 5))]
                if axis is panel.xaxis and max(map(len, texts), default=0) > 4:
                    few = [x for x in texts if x.lstrip("0.")[0] in "25"]
                axis.set_minor_formatter(Few(set(few)))


class Few(Formatter):
    """A formatter that labels only the ticks whose text is in ``labels``."""

    def __init__(self, labels: set[str]):
        self._labels = labels

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of the tick at x."""
        text = f"{x:g}"
        return text if text in self._labels else ""


def percent(*axes: Axis) -> None:
    """Show the ticks of shares in percent."""
    for axis in axes:
        axis.set_major_formatter(Percent())


def legend_columns(figure: Canvas, labels: Sequence[str], most: int) -> int:
    """Return how many columns of a legend with these labels fit below a figure, 1 to ``most``."""
    widest = max((_inches(x) for x in labels), default=0.0)
    return max(1, min(most, int((_width(figure) - 0.1) / (widest + 0.5))))


def _inches(text: str) -> float:
    """Return the width of a text in a legend."""
    size = FontProperties(size=7)
    lines = [TextPath((0, 0), x, prop=size).get_extents().width for x in text.split("\n") if x]
    return max(map(float, lines), default=0.0) / 72


def _width(figure: Canvas) -> float:
    return float(figure.bbox.width / figure.dpi)


def legend(figure: Canvas, *axes: Axes, title: str = "", handles: Sequence[Any] = ()) -> None:
    """Add one legend below all panels, each label once; the figure grows by its height.

    Args:
        figure: what to draw it on.
        axes: the panels whose labelled lines it shows.
        title: a line above it.
        handles: further labelled artists to show.

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
    side = legend_columns(figure, labels, 6)
    figure.legend(
        list(found.values()), labels, loc="outside lower center", ncols=side, frameon=False,
        title=title, title_fontsize=6.5,
    )  # fmt: skip
    lines = -(-len(labels) // side) * max(x.count("\n") + 1 for x in labels) + bool(title)
    if isinstance(figure, Figure):
        figure.set_figheight(figure.get_figheight() + 0.14 * (lines - 1))


def legend_entry(axis: Axes, style: str, label: str, **more: Any) -> None:
    """Add a line style and its meaning to the legend of a panel."""
    axis.plot([], [], style, **{"color": "0.3", "label": label, **more})


def common_grid(runs: Sequence[pd.DataFrame]) -> np.ndarray:
    """Return a logarithmic grid over the step lengths that all runs have measured."""
    low = max(r["lr"].min() for r in runs)
    high = min(r["lr"].max() for r in runs)
    return np.geomspace(low, max(low, high), 160)


def step_lengths(
    axis: Axes, runs: Sequence[pd.DataFrame], held: str, label: str, color: Any
) -> None:
    """Draw ``decrease`` over step lengths with its range over runs; dashed: the column ``held``."""
    grid = common_grid(runs)
    values = interpolated(runs, grid, "decrease")
    axis.plot(grid, values.mean(0), color=color, label=label)
    axis.fill_between(grid, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
    axis.plot(grid, interpolated(runs, grid, held).mean(0), "--", color=color)


def interpolated(runs: Sequence[pd.DataFrame], grid: np.ndarray, column: str) -> np.ndarray:
    """Return a column of each run on the grid (runs, grid), linear in the log of the length."""
    return np.stack([np.interp(np.log(grid), np.log(r["lr"]), r[column]) for r in runs])
