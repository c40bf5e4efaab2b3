"""Line plots of results against a setting or the step, described in an experiment's file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from sa.figure._axis import band, error_bars, legend, over_seeds, percent
from sa.figure._base import (
    INTERVALS,
    MEANS,
    Canvas,
    Kind,
    Sheet,
    need,
    number_of,
    palette,
    panels,
    rows_of,
)  # fmt: skip
from sa.figure._settings import column, settings, short_names, texts, unshown
from sa.table import names
from sa.table.grouping import configurations, key
from sa.table.results import reference, relative

ALONG = "step", "evals"
"""The x of values along a training; any other x is a column of the table."""

NULL = "random directions"
"""The name of the line of ``random``."""


@dataclass(frozen=True)
class Lines:
    """A line plot: means over seeds as lines, with a band for each.

    Args:
        x: the horizontal axis: the name of a setting, or ``step`` or ``evals`` to draw values along
            each training.
        y: a result, or a list of results with a panel for each.
        hue: a setting with a line for each of its values, or a list with a line for each
            combination; by default there is a line for each configuration of a panel.
        panels: one setting or a list; there is a panel for each combination of their values.
        rows: a setting with a row of panels for each of its values; each row has its own y axis.
        random: a result of random directions, e.g. ``descent/null_heldout``, to draw in grey.
        interval: true for bands that are the 95 % intervals of the means over seeds by Student's t;
            false for bands from the least to the most over seeds.
        levels: values of y to draw as dotted lines, such as closed forms: a list for all panels, or
            a mapping from a value of ``panels`` to the list of its panels.
        log: the logarithmic axes, of x and y; y only in panels whose values are above 0 and span
            a factor of three.
        name: the name of its files; by default made of x and y.

    """

    x: str
    y: str | Sequence[str]
    hue: str | Sequence[str] | None = None
    panels: str | Sequence[str] = ()
    rows: str | None = None
    random: str | None = None
    interval: bool = False
    levels: Sequence[float] | Mapping[str, Sequence[float]] = ()
    log: str | Sequence[str] = ()
    name: str = ""

    @property
    def ys(self) -> list[str]:
        """The results on the vertical axes."""
        return _listed(self.y)

    @property
    def file(self) -> str:
        """The name of its files, without an ending."""
        drawn = f"{self.ys[0]}{'_and_more' if len(self.ys) > 1 else ''}_by_{self.x}"
        return re.sub(r"\W+", "_", self.name or drawn)

    @property
    def kind(self) -> Kind:
        """The figure kind that draws it."""
        shows: list[Callable[[pd.DataFrame], pd.Series]] = [self._row, self._panel, self._hue]
        shows += [] if self.x in ALONG else [self._x]
        single = {"seed", "run_id"} & {*_listed(self.hue), *_listed(self.panels)}  # a line is a run
        spread = INTERVALS if self.interval else MEANS
        return Kind(self._paint, tuple(shows), "" if single else spread)

    def _x(self, table: pd.DataFrame) -> pd.Series:
        values = column(table, self.x)
        if values.map(key).groupby(configurations(settings(table))).nunique().max() > 1:
            raise ValueError(
                f"x: {self.x} differs between the seeds of one configuration, so means over seeds "
                "have no place on the axis; use a setting as x"
            )
        return values

    def _panel(self, table: pd.DataFrame) -> pd.Series:
        titles = [
            texts(column(table, name)).map(f"{word} {{}}".format)
            for name, word in short_names(_listed(self.panels)).items()
        ]
        return pd.Series([", ".join(t) for t in zip(*titles, strict=True)] or "", table.index)

    def _row(self, table: pd.DataFrame) -> pd.Series:
        if self.rows is None:
            return pd.Series("", table.index)
        shown = texts(column(table, self.rows))
        return shown.map(f"{short_names([self.rows])[self.rows]} {{}}".format)

    def _hue(self, table: pd.DataFrame) -> pd.Series:
        parts = [texts(column(table, name)) for name in _listed(self.hue)]
        if len(parts) == 1:
            return parts[0]
        if parts:
            words = pd.concat(parts, axis=1).replace("null", "")
            return words.agg(" ".join, axis=1).str.split().str.join(" ")
        shown = [self._row(table), self._panel(table)]
        shown += [] if self.x in ALONG else [self._x(table)]
        return unshown(table, shown).replace("", "all")

    def _paint(self, table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
        tidy = pd.concat([self._points(table, y) for y in self.ys], ignore_index=True)
        if tidy.empty:
            need(table, *self.ys)
            raise ValueError(f"no run has values of both {self.x} and {', '.join(self.ys)}")
        hues = _ordered(tidy["hue"])
        tones = palette(pd.Series(hues)) | {NULL: "0.6"}
        if self.random is not None:
            tidy = pd.concat([tidy, *(self._random(table, y) for y in self.ys)], ignore_index=True)
        figure, axes, places = self._places(tidy, sheet)
        ticks = None if self.x in ALONG else _ticks(tidy["x"])
        for axis, (row, panel, y) in zip(axes, places, strict=True):
            here = tidy[(tidy["row"] == row) & (tidy["panel"] == panel) & (tidy["number"] == y)]
            for hue, points in here.groupby("hue", sort=False):
                _line(axis, points, ticks, self.interval, color=tones[str(hue)], label=str(hue))
            for value in self._levels(panel):
                axis.axhline(value, ls=":", lw=0.9, color="0.35", zorder=1)
            share = y in names.NAMES and names.NAMES[y].percent
            if share:
                percent(axis.yaxis)
            if "y" in _listed(self.log):
                _log(axis, here["value"], share)
            if "x" in _listed(self.log) and (ticks is None or min(ticks.values()) > 0):
                axis.set_xscale("log")
            name = names.bare(y, reference(table))
            name = name if len(name) < 32 else name.replace("/", "/\n", 1)
            x = names.bare(self.x)
            x = x if len(x) < 32 else short_names([self.x])[self.x]
            axis.set(xlabel=x, ylabel=name, title=", ".join(t for t in (row, panel) if t))
        if ticks is not None:
            _same_x(axes, ticks)
        if hues != ["all"] or self.random is not None:
            legend(figure, *axes, title=" ".join(short_names(_listed(self.hue)).values()))
        return figure, tidy

    def _places(
        self, tidy: pd.DataFrame, sheet: Sheet
    ) -> tuple[Canvas, list[Axes], list[tuple[str, str, str]]]:
        """Return the canvas, its panels, and the row, the panel and the result of each of them."""
        across, down = _ordered(tidy["panel"]), _ordered(tidy["row"])
        ys = [y for y in self.ys if (tidy["number"] == y).any()]
        places = [(row, p, y) for row in down for y in ys for p in across]
        by_result = len(ys) > 1 and 1 < len(across) <= 4  # rows are results
        columns = len(across) if by_result or self.rows is not None else 0
        shared: bool | Literal["row"] = "row" if self.rows is not None else len(ys) == 1
        figure, axes = panels(sheet, len(places), shared, columns)
        there = set(zip(tidy["row"], tidy["panel"], tidy["number"], strict=True))
        for axis, place in zip(axes, places, strict=True):
            if place not in there:
                axis.remove()
        kept = [i for i, place in enumerate(places) if place in there]
        return figure, [axes[i] for i in kept], [places[i] for i in kept]

    def _random(self, table: pd.DataFrame, y: str) -> pd.DataFrame:
        """Return the points of random directions beside y: a mean over runs for each seed."""
        assert self.random is not None
        need(table, self.random)
        found = self._points(table, self.random).assign(hue=NULL, number=y)
        by = ["row", "panel", "hue", "number", "seed", "x"]
        return found.groupby(by, sort=False)["value"].mean().reset_index()

    def _levels(self, panel: str) -> list[float]:
        """Return the levels of the panel with this title."""
        if not isinstance(self.levels, Mapping):
            return list(self.levels)
        words = panel.replace(",", "").split()
        return [v for value, many in self.levels.items() if str(value) in words for v in many]

    def _points(self, table: pd.DataFrame, y: str) -> pd.DataFrame:
        """Return x, hue, row, panel, number and value of a result, for each run (and step)."""
        about = pd.DataFrame(
            {"hue": self._hue(table), "row": self._row(table), "panel": self._panel(table)}
            | {"number": y}
            | {c: table[c] for c in ("seed", "run_id")}
        )
        if self.x not in ALONG:
            tidy = about.assign(x=self._x(table), value=relative(table, y))
            return tidy[tidy["value"].notna() & tidy["x"].notna()]
        rows, found = rows_of(table), []
        for known, (_, run) in zip(about.to_dict("records"), table.iterrows(), strict=True):
            steps = rows(run).reindex(columns=list(dict.fromkeys([self.x, y, "loss"])))
            steps = steps.assign(value=relative(steps, y, "loss")).rename(columns={self.x: "x"})
            steps = steps[["x", "value"]].dropna()
            found.append(steps.assign(**{str(k): v for k, v in known.items()}))
        return pd.concat(found, ignore_index=True)


def from_mapping(given: Mapping[str, Any]) -> Lines:
    """Return the line plot that ``{kind: lines, x: COLUMN, y: COLUMN, ...}`` describes.

    Raises:
        ValueError: a key is unknown, x or y is missing, or a value has another form.

    """
    known = {f.name for f in fields(Lines)}
    columns = {k: v for k, v in given.items() if k != "kind"}
    if given.get("kind") != "lines" or not {"x", "y"} <= set(columns) <= known:
        raise ValueError(
            f"figure {dict(given)}: expected {{kind: lines, x: COLUMN, y: COLUMN}}, and any of "
            "hue: COLUMN, panels: COLUMN, rows: COLUMN, random: COLUMN, interval: true, "
            "levels: [NUMBER], log: [x, y], name: NAME"
        )
    for name in ("rows", "random"):
        if not isinstance(columns.get(name), str | None):
            raise ValueError(f"figure {dict(given)}: {name} is one column, not a list")
    levels = columns.get("levels", ())
    lists = list(levels.values()) if isinstance(levels, Mapping) else [levels]
    if not all(isinstance(x, Sequence) and all(map(_is_number, x)) for x in lists):
        raise ValueError(
            f"figure {dict(given)}: levels is a list of numbers, [0.2, 1], or a mapping from a "
            "value of panels to such a list"
        )
    return Lines(**columns)


def _log(axis: Axes, values: pd.Series, share: bool) -> None:
    """Make y logarithmic with plain numbers, if the values are above 0 and span a factor of 3."""
    if not 0 < 3 * values.min() < values.max():
        return
    axis.set_yscale("log")
    plain = FuncFormatter(lambda v, _: f"{100 * v:g} %" if share else f"{v:g}")
    some = FuncFormatter(lambda v, at: plain(v, at) if f"{v:.0e}"[0] in "25" else "")
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(some if values.max() < 100 * values.min() else NullFormatter())


def _same_x(axes: Sequence[Axes], ticks: Mapping[str, float]) -> None:
    """Give all panels the same x axis, with a tick at each value if there are at most eight."""
    ends = [axis.get_xlim() for axis in axes]
    for axis in axes:
        if len(ticks) <= 8:
            axis.set_xticks(list(ticks.values()), list(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))


def _line(
    axis: Axes, points: pd.DataFrame, ticks: Mapping[str, float] | None, interval: bool,
    **style: Any,
) -> None:  # fmt: skip
    """Draw the means of one hue by x with a band; as a point with a bar if there is one x."""
    groups = points["value"].groupby(
        points["x"] if ticks is None else texts(points["x"]).map(ticks)
    )
    if groups.ngroups > 1:
        band(axis, groups, "-" if ticks is None else "o-", interval=interval, ms=3, **style)
        return
    found = over_seeds(groups, interval=interval)
    axis.errorbar(found.index, found["mean"], error_bars(found), fmt="o", ms=3, **style)


def _ordered(values: pd.Series) -> list[str]:
    """Return the different texts: numbers by size, others in order of appearance, null last."""
    found = list(dict.fromkeys(values))
    known = [t for t in found if t != "null"]
    if all(number_of(t) is not None for t in known):
        known.sort(key=float)
    return known + [t for t in found if t == "null"]


def _ticks(x: pd.Series) -> dict[str, float]:
    """Return the place of each value of x: a number's own, or 0, 1, 2, ... for texts."""
    found = _ordered(texts(x))
    known = [v for v in map(number_of, found) if v is not None]
    return dict(zip(found, known if len(known) == len(found) else range(len(found)), strict=True))


def _listed(given: str | Sequence[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
