"""The numbers of a sweep as people read them: named, in their units, the reference marked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sa.sweep.table import finite
from sa.table import names
from sa.table.grouping import configurations, key

if TYPE_CHECKING:
    import pandas as pd

REFERENCES = "analysis.alignment.references."

OF_REFERENCE = ("alignment/cosine", "alignment/scale")
"""Results that are 1 by construction for the reference itself."""

CHOICES = frozenset(
    f"{k}{end}"
    for k, ends in {
        "smoothing/epsilon": ("", "_low", "_high"), "smoothing/sigma": ("", "_low", "_high"),
        "descent/best_lr": ("",), "descent/layerwise/best_lr": ("",), "training/lr": ("",),
    }.items() for end in ends
)  # fmt: skip
"""Results that are the best of a grid. A mean of them is no best of anything: take the median."""


@dataclass(frozen=True)
class Shown:
    """A column as people read it.

    words: its name and unit. numbers: of each run, in that unit; nan where a run has none.
    """

    words: str
    numbers: "pd.Series"


def shown(table: "pd.DataFrame", column: str, every: bool = False) -> Shown:
    """Return a column of results by its name, relative to the loss and in percent if that says so.

    every: of every run, else nan for those that are not done. A decrease stays absolute, under the
    column's own name, if the table has no ``value``.
    """
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    numbers = numbers.where(numbers.abs() < float("inf"))
    if not every:
        numbers = numbers.where(table["status"] == "done")
    known = names.NAMES.get(column)
    if known is None or (known.relative and "value" not in table):
        return Shown(column, numbers)
    if known.relative:
        numbers = numbers / pd.to_numeric(table["value"], errors="coerce").astype(float)
        numbers = numbers.where(numbers.abs() < float("inf"))
    if known.percent:
        numbers = 100 * numbers
    return Shown(names.words(column, reference(table)), numbers)


def reference(table: "pd.DataFrame") -> str:
    """Return the short name of the gradient that the runs of a table are aligned with."""
    found = {names.reference(*told) for told in _aligned_with(table) if told[0]}
    return found.pop() if len(found) == 1 else "the reference" if found else names.reference(None)


def is_reference(table: "pd.DataFrame") -> list[bool]:
    """Return whether each run's estimator is itself the gradient that it is aligned with."""
    first = _first(table)
    if first is None:
        return [False] * len(table)
    there = {str(c).removeprefix(first): str(c) for c in table if str(c).startswith(first)}
    told = []
    for _, row in table.iterrows():  # the reference leaves settings of its class at their defaults
        named = {k: key(row[c]) for k, c in there.items() if key(row[c]) != key(None)}
        mine = {k: key(row.get(f"estimator.{k}")) for k in named}
        told.append(named == mine != {})
    return told


def _first(table: "pd.DataFrame") -> str | None:
    """The prefix of the settings of the first reference, ``analysis.alignment.references.a.``."""
    found = (str(c) for c in table if str(c).startswith(REFERENCES) and "_target_" in str(c))
    column = next(found, None)
    return None if column is None else column.removesuffix("_target_")


def _aligned_with(table: "pd.DataFrame") -> list[tuple[Any, Any]]:
    first = _first(table)
    if first is None:
        return []
    nothing = [None] * len(table)
    epsilons = table[f"{first}epsilon"] if f"{first}epsilon" in table else nothing
    return list(zip(table[f"{first}_target_"], epsilons, strict=True))


@dataclass(frozen=True)
class Cell:
    """A number over seeds. n: the runs that have it. reference: of the reference itself."""

    n: int
    mean: float
    half: float
    low: float
    high: float
    reference: bool = False


@dataclass(frozen=True)
class Row:
    """A configuration over seeds. runs: all of them. states: how many are in which, done first."""

    label: str
    runs: int
    states: dict[str, int]
    cells: list[Cell]


def over_seeds(
    table: "pd.DataFrame", labels: Sequence[str], columns: Sequence[str]
) -> tuple[list[str], list[Row]]:
    """Return the names of the columns, and a row for each configuration.

    labels: of every run, as `label.worded` gives them; without ``attrs["settings"]`` they tell the
    configurations apart. A cell's mean is the median for one of `CHOICES`; half: the half-width of
    the 95 % interval of the mean by Student's t, nan of one run and of a choice.
    """
    import pandas as pd

    settings = table.attrs.get("settings")
    number = configurations(table[settings]) if settings else pd.Series(labels, table.index)
    several = {c: shown(table, c) for c in columns}
    own, told = pd.Series(is_reference(table), table.index), pd.Series(labels, table.index)
    rows = []
    for _, some in table.groupby(number, sort=False):
        states = Counter(map(str, some["status"]))
        done = {"done": states.pop("done", 0)}
        cells = [
            _cell(one.numbers.loc[some.index], c, bool(own.loc[some.index].all()))
            for c, one in several.items()
        ]
        rows.append(Row(told.loc[some.index[0]], len(some), done | dict(states), cells))
    return [one.words for one in several.values()], rows


def _cell(numbers: "pd.Series", column: str, reference: bool) -> Cell:
    from scipy import stats

    got = finite(numbers)
    n, nan = len(got), float("nan")
    if not n:
        return Cell(0, nan, nan, nan, nan)
    ends = float(got.min()), float(got.max())
    if column in CHOICES:
        return Cell(n, float(got.median()), nan, *ends)
    half = float(stats.t.ppf(0.975, n - 1)) * float(str(got.sem())) if n > 1 else nan
    return Cell(n, float(got.mean()), half, *ends, reference and column in OF_REFERENCE)


def counted(row: Row) -> str:
    """Return how many runs of a configuration are done: ``6``, or ``4 of 6: 2 diverged``."""
    rest = ", ".join(f"{n} {state}" for state, n in row.states.items() if state != "done")
    return f"{row.states['done']} of {row.runs}: {rest}" if rest else str(row.runs)


def short_of(cell: Cell, row: Row) -> str:
    """Return `` [n=3]`` if a number is of fewer runs than are done, else ''."""
    return f" [n={cell.n}]" if 0 < cell.n < row.states["done"] else ""


def half_width(value: float) -> str:
    """Return a half-width to two digits, without an exponent where that is readable."""
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:.2g}"
