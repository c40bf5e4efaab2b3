"""The results of a sweep as people read them: named, in their units, means over seeds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sa.table import names, results
from sa.table.grouping import configurations, key

if TYPE_CHECKING:
    import pandas as pd

OF_REFERENCE = ("alignment/cosine", "alignment/scale")
"""Results that are 1 by construction for the reference itself."""

CHOICES = frozenset(
    f"{k}{end}"
    for k, ends in {
        "smoothing/epsilon": ("", "_low", "_high"), "smoothing/sigma": ("", "_low", "_high"),
        "descent/best_lr": ("",), "descent/layerwise/best_lr": ("",), "training/lr": ("",),
    }.items() for end in ends
)  # fmt: skip
"""Choices from a grid. Tables show their median, because the mean of good choices can be bad."""


@dataclass(frozen=True)
class Displayed:
    """A column of results with its name.

    Args:
        words: its name and unit.
        numbers: the value of each run in that unit, NaN if a run has none.

    """

    words: str
    numbers: "pd.Series"


def displayed(table: "pd.DataFrame", column: str, every: bool = False) -> Displayed:
    """Return a column of results in the unit that tables show.

    A decrease stays absolute, under the column's own name, if the table has no ``value``.

    Args:
        table: one row for each run.
        column: the result.
        every: show all runs; by default runs that are not done are NaN.

    """
    numbers = results.relative(table, column)
    numbers = numbers.where(numbers.abs() < float("inf"))
    if not every:
        numbers = numbers.where(table["status"] == "done")
    known = names.NAMES.get(column)
    if known is None or (known.relative and "value" not in table):
        return Displayed(column, numbers)
    unit = 100 if known.percent else 1
    return Displayed(names.words(column, results.reference(table)), unit * numbers)


def is_reference(table: "pd.DataFrame") -> list[bool]:
    """Return for each run whether its estimator is the reference of ``alignment/cosine``."""
    first = results.first_reference(table)
    if first is None:
        return [False] * len(table)
    columns = {str(c).removeprefix(first): str(c) for c in table if str(c).startswith(first)}
    found = []
    for _, run in table.iterrows():  # the reference leaves settings of its class at their defaults
        wanted = {k: key(run[c]) for k, c in columns.items() if key(run[c]) != key(None)}
        own = {k: key(run.get(f"estimator.{k}")) for k in wanted}
        found.append(wanted == own != {})
    return found


@dataclass(frozen=True)
class Cell:
    """A number over seeds.

    Args:
        n: how many runs have it.
        mean: their mean, or their median for one of `CHOICES`.
        half: the half-width of the 95 % interval of the mean; NaN for one run and for a choice.
        low: the least value.
        high: the largest value.
        reference: True if it belongs to the reference itself.

    """

    n: int
    mean: float
    half: float
    low: float
    high: float
    reference: bool = False


@dataclass(frozen=True)
class Row:
    """A configuration over seeds.

    Args:
        label: the name of the configuration.
        runs: how many runs it has.
        states: how many runs are in each state, ``done`` first.
        cells: a cell for each column.

    """

    label: str
    runs: int
    states: dict[str, int]
    cells: list[Cell]


def over_seeds(
    table: "pd.DataFrame", labels: Sequence[str], columns: Sequence[str]
) -> tuple[list[str], list[Row]]:
    """Return the names of the columns, and a row for each configuration.

    Args:
        table: one row for each run.
        labels: the label of each run, as `label.full_labels` returns them. Without
            ``attrs["settings"]`` runs with one label are one configuration.
        columns: the results.

    """
    import pandas as pd

    settings = table.attrs.get("settings")
    number = configurations(table[settings]) if settings else pd.Series(labels, table.index)
    shown = {c: displayed(table, c) for c in columns}
    own, label = pd.Series(is_reference(table), table.index), pd.Series(labels, table.index)
    rows = []
    for _, runs in table.groupby(number, sort=False):
        states = Counter(map(str, runs["status"]))
        done = {"done": states.pop("done", 0)}
        cells = [
            _cell(one.numbers.loc[runs.index], c, bool(own.loc[runs.index].all()))
            for c, one in shown.items()
        ]
        rows.append(Row(label.loc[runs.index[0]], len(runs), done | dict(states), cells))
    return [one.words for one in shown.values()], rows


def _cell(numbers: "pd.Series", column: str, reference: bool) -> Cell:
    """Return the cell of a column over the runs of a configuration."""
    values, nan = results.finite(numbers), float("nan")
    n = len(values)
    if not n:
        return Cell(0, nan, nan, nan, nan)
    ends = float(values.min()), float(values.max())
    if column in CHOICES:
        return Cell(n, float(values.median()), nan, *ends)
    half = results.half_width(values)
    return Cell(n, float(values.mean()), half, *ends, reference and column in OF_REFERENCE)


def counted(row: Row) -> str:
    """Return how many runs of a configuration are done: ``6``, or ``4 of 6: 2 diverged``."""
    rest = ", ".join(f"{n} {state}" for state, n in row.states.items() if state != "done")
    return f"{row.states['done']} of {row.runs}: {rest}" if rest else str(row.runs)


def short_of(cell: Cell, row: Row) -> str:
    """Return `` [n=3]`` if fewer runs than are done have the number, else ''."""
    return f" [n={cell.n}]" if 0 < cell.n < row.states["done"] else ""


def width_text(value: float) -> str:
    """Return a half-width to two digits, without an exponent from 0.0001 to 100,000."""
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:.2g}"
