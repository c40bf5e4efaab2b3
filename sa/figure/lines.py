"""Lines of results against a setting or the step, as an experiment asks for in its file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from sa.figure._apart import rest, settings, short
from sa.figure._axis import legend, percent, reach
from sa.figure._label import reference
from sa.figure._paper import MEANS, Canvas, Kind, Sheet, need, numbers, palette, panels, steps
from sa.table import names
from sa.table.grouping import configurations, key

STEP = "step"
"""The x of results along trainings; any other x is a column of the table."""


@dataclass(frozen=True)
class Lines:
    """A figure of lines: means over seeds, and the least and the most as bands.

    Args:
        x: what the horizontal axis shows: the name of a setting, or ``step`` to draw values along
            each training.
        y: a result, or a list of results with a panel for each.
        hue: a setting with a line for each of its values; by default there is a line for each
            configuration of a panel.
        panels: one setting or a list; there is a panel for each combination of their values.
        log: the axes that are logarithmic, of x and y; y only where the values of a panel are
            above 0 and span a factor of three.
        name: what its files are called; by default what is drawn.

    """

    x: str
    y: str | Sequence[str]
    hue: str | None = None
    panels: str | Sequence[str] = ()
    log: str | Sequence[str] = ()
    name: str = ""

    @property
    def ys(self) -> list[str]:
        """The results that are drawn."""
        return _listed(self.y)

    @property
    def file(self) -> str:
        """What its files are called."""
        told = f"{self.ys[0]}{'_and_more' if len(self.ys) > 1 else ''}_by_{self.x}"
        return re.sub(r"\W+", "_", self.name or told)

    @property
    def kind(self) -> Kind:
        """What draws it."""
        shows: list[Callable[[pd.DataFrame], pd.Series]] = [self._panel, self._hue]
        shows += [] if self.x == STEP else [self._x]
        single = {"seed", "run_id"} & {self.hue, *_listed(self.panels)}  # then no line is a mean
        return Kind(self._paint, tuple(shows), "" if single else MEANS)

    def _x(self, table: pd.DataFrame) -> pd.Series:
        values = _column(table, self.x)
        if values.map(key).groupby(configurations(settings(table))).nunique().max() > 1:
            raise ValueError(
                f"x: {self.x} differs between the seeds of one configuration; take a setting"
            )
        return values

    def _panel(self, table: pd.DataFrame) -> pd.Series:
        told = [
            _told(_column(table, name)).map(f"{word} {{}}".format)
            for name, word in short(_listed(self.panels)).items()
        ]
        return pd.Series([", ".join(some) for some in zip(*told, strict=True)] or "", table.index)

    def _hue(self, table: pd.DataFrame) -> pd.Series:
        if self.hue is not None:
            return _told(_column(table, self.hue))
        shown = [self._panel(table)] + ([] if self.x == STEP else [self._x(table)])
        return rest(table, shown).replace("", "all")

    def _paint(self, table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
        tidy = pd.concat([self._points(table, y) for y in self.ys], ignore_index=True)
        if tidy.empty:
            need(table, *self.ys)
            raise ValueError(f"no run has {', '.join(self.ys)} to draw against {self.x}")
        across = _ordered(tidy["panel"])
        ys = [y for y in self.ys if (tidy["number"] == y).any()]
        places = [(p, y) for y in ys for p in across]
        columns = len(across) if len(ys) > 1 and 1 < len(across) <= 4 else 0  # a row a result
        figure, axes = panels(sheet, len(places), len(ys) == 1, columns)
        hues = _ordered(tidy["hue"])
        tones = _tones(hues)
        ticks = None if self.x == STEP else _ticks(tidy["x"])
        for axis, (panel, y) in zip(axes, places, strict=True):
            here = tidy[(tidy["panel"] == panel) & (tidy["number"] == y)]
            for hue, mine in here.groupby("hue", sort=False):
                _line(axis, mine, ticks, color=tones[str(hue)], label=str(hue))
            share = y in names.NAMES and names.NAMES[y].percent
            if share:
                percent(axis.yaxis)
            if "y" in _listed(self.log):
                _log(axis, here["value"], share)
            if "x" in _listed(self.log) and (ticks is None or min(ticks.values()) > 0):
                axis.set_xscale("log")
            told = names.bare(y, reference(table))
            told = told if len(told) < 32 else told.replace("/", "/\n", 1)
            axis.set(xlabel=names.bare(self.x), ylabel=told, title=panel)
        if ticks is not None:
            _abscissae(axes, ticks)
        if hues != ["all"]:
            legend(figure, *axes, title=short([self.hue])[self.hue] if self.hue else "")
        return figure, tidy

    def _points(self, table: pd.DataFrame, y: str) -> pd.DataFrame:
        """A row a run, or a run and step: x, hue, panel, the result's name as number, value."""
        about = pd.DataFrame(
            {"hue": self._hue(table), "panel": self._panel(table), "number": y}
            | {c: table[c] for c in ("seed", "run_id")}
        )
        if self.x != STEP:
            tidy = about.assign(x=self._x(table), value=_relative(table, y))
            return tidy[tidy["value"].notna() & tidy["x"].notna()]
        rows, found = steps(table), []
        for known, (_, run) in zip(about.to_dict("records"), table.iterrows(), strict=True):
            mine = rows(run).reindex(columns=list(dict.fromkeys([STEP, y, "loss"])))
            mine = mine.assign(value=_relative(mine, y, "loss")).rename(columns={STEP: "x"})
            mine = mine[["x", "value"]].dropna()
            found.append(mine.assign(**{str(k): v for k, v in known.items()}))
        return pd.concat(found, ignore_index=True)


def asked(given: Mapping[str, Any]) -> Lines:
    """Return the figure that ``{kind: lines, x: COLUMN, y: COLUMN, ...}`` asks for.

    Raises:
        ValueError: a key that there is not, or none of x or y.

    """
    known = {f.name for f in fields(Lines)}
    columns = {k: v for k, v in given.items() if k != "kind"}
    if given.get("kind") != "lines" or not {"x", "y"} <= set(columns) <= known:
        raise ValueError(
            f"figure {dict(given)}: expected {{kind: lines, x: COLUMN, y: COLUMN}}, and any of "
            "hue: COLUMN, panels: COLUMN, log: [x, y], name: NAME"
        )
    return Lines(**columns)


def _log(axis: Axes, values: pd.Series, share: bool) -> None:
    """A logarithmic axis of y with plain numbers, where the values are above 0 and far apart."""
    if not 0 < 3 * values.min() < values.max():
        return
    axis.set_yscale("log")
    plain = FuncFormatter(lambda v, _: f"{100 * v:g} %" if share else f"{v:g}")
    some = FuncFormatter(lambda v, at: plain(v, at) if f"{v:.0e}"[0] in "25" else "")
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(some if values.max() < 100 * values.min() else NullFormatter())


def _abscissae(axes: Sequence[Axes], ticks: Mapping[str, float]) -> None:
    """The same x for all panels, with ticks at its values where these are few or words."""
    ends = [axis.get_xlim() for axis in axes]
    for axis in axes:
        if len(ticks) <= 8:
            axis.set_xticks(list(ticks.values()), list(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))


def _line(axis: Axes, mine: pd.DataFrame, ticks: Mapping[str, float] | None, **style: Any) -> None:
    """The means of a line by x, with a band; with a bar where it has one x."""
    at = mine["x"] if ticks is None else _told(mine["x"]).map(ticks)
    got = mine["value"].groupby(at).agg(["mean", "min", "max"])
    if len(got) == 1:
        axis.errorbar(got.index, got["mean"], reach(got), fmt="o", ms=3, **style)
        return
    axis.plot(got.index, got["mean"], "-" if ticks is None else "o-", ms=3, **style)
    axis.fill_between(got.index, got["min"], got["max"], color=style["color"], alpha=0.15, lw=0)


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of the table, or the values of a setting as they were typed."""
    if name in table:
        return table[name]
    typed = [one.get(name) for one in table.get("typed", [])]
    if all(v is None for v in typed):
        raise ValueError(f"the table has no column {name}, and no run was typed with {name}=")
    return pd.Series(typed, table.index, dtype=object)


def _relative(table: pd.DataFrame, column: str, loss: str = "value") -> pd.Series:
    """Return a result as tables show it: a relative decrease is divided by the column ``loss``."""
    known = names.NAMES.get(column)
    value = numbers(table, column)
    return value / numbers(table, loss) if known is not None and known.relative else value


def _told(values: pd.Series) -> pd.Series:
    """The values of a setting in words: numbers short, of a component its class, null for none."""
    return values.map(_word, na_action=None)


def _word(value: Any) -> str:
    if value is None or value != value:
        return "null"
    told = f"{value:.12g}" if isinstance(value, float) else str(value).replace('"', "")
    return told.rpartition(".")[2] if told.startswith("sa.") and " " not in told else told


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _ordered(words: pd.Series) -> list[str]:
    """Different words: numbers by their size, others as they come, and null last."""
    found = list(dict.fromkeys(words))
    plain = [w for w in found if w != "null"]
    if all(_number(w) is not None for w in plain):
        plain.sort(key=float)
    return plain + [w for w in found if w == "null"]


def _tones(hues: Sequence[str]) -> dict[str, Any]:
    """Colours by the size of numbers, else the familiar ones."""
    if len(hues) > 1 and all(_number(h) is not None for h in hues):
        return dict(zip(hues, sns.color_palette("viridis", len(hues)), strict=True))
    return palette(pd.Series(hues))


def _ticks(x: pd.Series) -> dict[str, float]:
    """Where each value of x lies: numbers where they are, words side by side."""
    words = _ordered(_told(x))
    known = [v for v in map(_number, words) if v is not None]
    return dict(zip(words, known if len(known) == len(words) else range(len(words)), strict=True))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
