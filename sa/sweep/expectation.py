"""What a study expects, as data, and whether the table of its runs agrees: pass, fail or open."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import pandas as pd
from annotated_types import Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import stats

from sa.table import grouping, names, ranking

Value = str | int | float | bool | None
"""What runs are chosen by: a text may hold ``*``."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Expectation:
    """What a statistic of a sweep is expected to be, and by whom.

    id: names it. statistic: a number of the results, e.g. ``test/accuracy``, as a fraction; what
    tables show relative to the loss (``descent/best``) is relative here too. predicate and value:
    ``>= 0.9``, ``<= 0.9`` or ``between [0.8, 0.9]``. where: the runs it is of, as a mapping of
    settings or results to values, with ``*`` in a text as in `sweep.exclude`; all if empty; of
    several settings it is the mean of each seed's. against: other runs; the statistic is then the
    ``how`` (ratio, difference) of both means, seed by seed. tau: a setting or result: the
    statistic is then Kendall's tau with it, over the runs of each seed. source: where it is
    claimed.
    """

    id: str
    statistic: str
    predicate: Literal[">=", "<=", "between"]
    value: float | Annotated[list[float], Len(2, 2)]
    source: str
    where: dict[str, Value] = field(default_factory=dict)
    against: dict[str, Value] | None = None
    how: Literal["ratio", "difference"] = "ratio"
    tau: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value, list) != (self.predicate == "between"):
            raise ValueError(f"{self.id}: between needs two values [low, high], >= and <= one")
        if self.against is not None and self.tau is not None:
            raise ValueError(f"{self.id}: take either against or tau")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that agree."""
        if isinstance(self.value, list):
            return self.value[0], self.value[1]
        return (self.value, math.inf) if self.predicate == ">=" else (-math.inf, self.value)


def read(given: Sequence[dict[str, Any]]) -> list[Expectation]:
    """Expectations as an experiment lists them; raises ValueError naming what is wrong."""
    for one, side in ((e, s) for e in given for s in ("where", "against")):
        if isinstance(one.get(side), str):
            pairs = ", ".join(w.replace("=", ": ", 1) for w in one[side].split())
            text = f"{one.get('id')}: {side}: {one[side]!r} is a text"
            raise ValueError(f"{text}; write a mapping, {side}: {{{pairs}}}")
    try:
        found = TypeAdapter(list[Expectation]).validate_python(list(given))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("; ".join(told)) from error
    names = [e.id for e in found]
    if len(set(names)) < len(names):
        raise ValueError(f"an id is used twice: {', '.join(names)}")
    return found


def recorded(given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return expectations as a sweep recorded them, with mappings for the words of older ones."""
    return [
        {
            k: {key: value for key, _, value in (w.partition("=") for w in v.split())}
            if k in ("where", "against") and isinstance(v, str)
            else v
            for k, v in one.items()
        }
        for one in given
    ]


def judge(
    expected: Sequence[Expectation], table: pd.DataFrame, words: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Each expectation with what was observed: mean, its 95 % interval, n of what, the verdict.

    table: a run a row, with its ``status`` (all are done if there is no such column) and in
    ``attrs["results"]`` the names of the results; words: the overrides of each run.

    pass: the whole interval over seeds (by Student's t; of one seed that over its settings, of one
    run its value) agrees, and no run is missing; fail: none of the interval agrees; else
    inconclusive. ``missing`` counts by name the runs (of ``runs``) without a number: diverged,
    failed, lost, ..., or done without it. A diverged run's numbers are not used, unless ``where``
    asks for a ``status``. ``over``: the settings that vary among the runs and that the statistic
    is a mean or an order over.
    """
    results = table.attrs.get("results", [str(c) for c in table if "/" in str(c)])
    settings = list(table.attrs.get("settings", []))
    table = table.reset_index(drop=True).join(_typed(words))
    return [_judged(e, table, set(results), settings) for e in expected]


def line(judged: dict[str, Any]) -> str:
    """One judged expectation in words."""
    value = judged["value"]
    asked = f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else f"{value:g}"
    asked = asked if judged["predicate"] == "between" else f"{judged['predicate']} {asked}"
    seen = judged["why"]
    if judged["observed"] is not None:
        low, high = judged["interval"]
        seen = f"{judged['observed']:.4g} [{low:.4g}, {high:.4g}] of {judged['n']} {judged['of']}"
    if judged["observed"] is not None and judged["over"]:
        seen += f", over all values of {', '.join(judged['over'])}"
    lacking = ", ".join(f"{n} of {judged['runs']} {how}" for how, n in judged["missing"].items())
    seen += f"; {lacking}" if lacking else ""
    return f"{judged['verdict']}: {judged['id']}: {seen}; expected {asked} ({judged['source']})"


def _typed(words: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A column ``:KEY`` for every key that was typed, a run a row."""
    typed = [dict(w.lstrip("+").split("=", 1) for w in some if "=" in w) for some in words]
    keys = dict.fromkeys(k for one in typed for k in one)
    columns = {f":{k}": [one.get(k) for one in typed] for k in keys}
    return pd.DataFrame(columns, index=range(len(typed)))


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class _Side:
    """The runs that an expectation is of, or those it compares with.

    runs: a run a row. number: the statistic of each, nan where the run has none that counts.
    missing: why it has none, of these runs alone. unmatched: how many done runs have the settings
    but not the results that were asked for.
    """

    runs: pd.DataFrame
    number: pd.Series
    missing: pd.Series
    unmatched: int


def _judged(
    e: Expectation, table: pd.DataFrame, results: set[str], settings: list[str]
) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": e.id, "statistic": e.statistic, "predicate": e.predicate, "value": e.value,
        "source": e.source, "observed": None, "interval": None, "n": 0, "of": "seeds",
        "verdict": "inconclusive", "why": "", "missing": {}, "runs": 0,
        "over": [],
    }  # fmt: skip
    try:
        sides = [_side(e, table, x, results) for x in (e.where, e.against) if x is not None]
    except KeyError as error:
        return out | {"why": f"no run has {error.args[0]}"}
    missing = pd.concat([side.missing for side in sides])
    runs = len(set().union(*(side.runs.index for side in sides)))
    lacking = missing[~missing.index.duplicated()].value_counts().to_dict()
    order = None if e.tau is None else _column(table, e.tau)
    over = dict.fromkeys(x for side in sides for x in _pooled(side.runs, settings, order))
    out |= {"missing": lacking, "runs": runs, "over": list(over)}
    if e.statistic not in table:
        return out | {"why": f"no run has {e.statistic}"}
    every = _observed(e, sides, table)
    got = every.dropna()
    if got.empty:
        if e.tau is not None and not sides[0].runs.empty:
            return out | {"why": f"no seed has three runs to order by {e.tau}"}
        both = "no seed has a number on both sides" if e.against is not None else "no run has it"
        return out | {"why": both}
    mean, n, reach = float(got.mean()), len(got), 0.0
    if n > 1:
        reach = float(stats.t.ppf(0.975, n - 1) * got.std(ddof=1) / math.sqrt(n))
    low, high = e.bounds
    least, most = mean - reach, mean + reach
    if e.tau is not None:
        least, most = max(least, -1.0), min(most, 1.0)
    undefined = _undefined(e, sides, every)
    verdict = "pass" if low <= least and most <= high else "inconclusive"
    verdict = "fail" if most < low or least > high else verdict
    if verdict == "pass" and (lacking or undefined):
        verdict = "inconclusive"
    of = _of(e, sides, every, undefined)
    seen = {"observed": mean, "interval": [least, most], "n": n, "of": of}
    return out | seen | {"verdict": verdict}


def _side(
    e: Expectation, table: pd.DataFrame, where: Mapping[str, Value], results: set[str]
) -> _Side:
    """The runs that are as asked; one that is not done may yet have the results asked for."""
    having = _chosen(table, {k: v for k, v in where.items() if k not in results})
    matching = _chosen(having, {k: v for k, v in where.items() if k in results})
    status = having["status"] if "status" in having else pd.Series("done", having.index)
    open_ = having.index[(status != "done") & ("status" not in where)]
    kept = having.index.isin(matching.index.union(open_))
    runs, status = having[kept], status[kept]
    number = _number(runs, e.statistic)
    number = number.mask(runs.index.isin(open_))
    missing = status.where(runs.index.isin(open_), f"without {e.statistic}")[number.isna()]
    if e.tau is not None:
        other = _number(runs, _column(table, e.tau))
        number = number.mask(other.isna())
        none = number.isna() & ~number.index.isin(missing.index)
        missing = pd.concat([missing, pd.Series(f"without {e.tau}", number.index[none])])
    return _Side(runs, number, missing, int((~kept).sum()))


def _pooled(runs: pd.DataFrame, settings: list[str], order: str | None) -> list[str]:
    """Return the settings that vary among runs; of several that vary together the shortest name.

    order: a column; what it determines is left out.
    """
    found: dict[tuple[int, ...], str] = {}
    for name in grouping.varying(runs[settings]):
        keys = runs[name].map(grouping.key, na_action=None)
        if order is None or keys.groupby(runs[order]).nunique().max() > 1:
            alike = tuple(int(x) for x in pd.factorize(keys)[0])
            short = name.removesuffix("._target_")
            found[alike] = min(found.get(alike, short), short, key=len)
    return list(found.values())


def _observed(e: Expectation, sides: Sequence[_Side], table: pd.DataFrame) -> pd.Series:
    """The statistic, a number a seed; of one seed's own, a number a run. nan where undefined."""
    mine = sides[0]
    if e.tau is not None:
        other = _number(mine.runs, _column(table, e.tau))
        seeds = mine.number.groupby(mine.runs["seed"], dropna=False)
        taus = {s: ranking.kendall(some, other.loc[some.index]) for s, some in seeds}
        return pd.Series(taus, dtype=float).rename_axis("seed")
    if e.against is None:
        one = mine.runs["seed"].nunique(dropna=False) == 1
        return mine.number if one else _means(mine)
    both = [_means(side) for side in sides]
    told = both[0] / both[1] if e.how == "ratio" else both[0] - both[1]
    return told.where(told.abs() < math.inf)


def _undefined(e: Expectation, sides: Sequence[_Side], every: pd.Series) -> int:
    """Of how many seeds all runs have a number, and the statistic has none: 0 / 0, or a tie."""
    if e.tau is None and e.against is None:
        return 0
    need = 1 if e.tau is None else 3
    full = [set(_counts(x.number, x.runs).loc[lambda n: n >= need].index) for x in sides]
    return len(set(every.index[every.isna()]) & set.intersection(*full))


def _of(e: Expectation, sides: Sequence[_Side], every: pd.Series, undefined: int) -> str:
    """What the numbers are of, with those that are left out: ``seeds (1 without a pair)``."""
    n, notes = len(every.dropna()), []
    seeds = every.index.name == "seed"
    of = f"{'seed' if seeds else 'run'}{'s' if n > 1 else ''}{'' if seeds else ' of one seed'}"
    if seeds and e.tau is None and (short := _short(sides)):
        notes.append(f"{short} without all settings")
    if undefined:
        notes.append(f"{undefined} undefined")
    if e.against is not None:
        planned = [set(side.runs["seed"].dropna()) for side in sides]
        if alone := len(planned[0] ^ planned[1]):
            notes.append(f"{alone} without a pair")
    if e.tau is not None and (few := int(every.isna().sum()) - undefined):
        notes.append(f"{few} without three runs")
    if unmatched := sum(side.unmatched for side in sides):
        notes.append(f"{unmatched} run{'s' if unmatched > 1 else ''} left out by their results")
    return of + (f" ({', '.join(notes)})" if notes else "")


def _short(sides: Sequence[_Side]) -> int:
    """Of how many seeds the mean is over fewer runs than others', as where a run failed."""
    each = [_counts(side.number, side.runs) for side in sides]
    several = [one for one in each if not one.empty and one.max() > 1]
    return len({seed for one in several for seed in one.index[one < one.max()]})


def _counts(number: pd.Series, runs: pd.DataFrame) -> pd.Series:
    return number.groupby(runs["seed"], dropna=False).count()


def _means(side: _Side) -> pd.Series:
    return side.number.groupby(side.runs["seed"], dropna=False).mean()


def _number(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as finite numbers, as tables show it; nan elsewhere, or if no run has it."""
    given = table[column] if column in table else pd.Series(math.nan, table.index)
    number = pd.to_numeric(given, errors="coerce").astype(float)
    known = names.NAMES.get(column)
    if known is not None and known.relative and "value" in table:
        number = number / pd.to_numeric(table["value"], errors="coerce").astype(float)
    return number.where(number.abs() < math.inf)


def _column(table: pd.DataFrame, key: str) -> str:
    """The column of a setting or result: as it was typed, else as it was resolved."""
    name = f":{key}" if f":{key}" in table else key
    if name not in table:
        raise KeyError(key)
    return name


def _chosen(table: pd.DataFrame, asked: Mapping[str, Value]) -> pd.DataFrame:
    """The runs that have all that is asked, by what was typed or else by their configuration."""
    for key, wanted in asked.items():
        column = table[_column(table, key)]
        if key in table:  # a point that did not type it has it all the same
            column = column.where(column.notna(), table[key])
        table = table.loc[[_alike(v, wanted) for v in column] if len(column) else []]
    return table


def _alike(value: Any, wanted: Value) -> bool:
    """Whether a value, as it was typed or resolved, is the wanted one."""
    if value is None or value != value or value == "null":  # resolved to nothing, or typed so
        return wanted in (None, "null")
    told, pattern = str(value), str(wanted)
    if told.lower() in ("true", "false"):
        told, pattern = told.lower(), pattern.lower()
    if fnmatch.fnmatchcase(told, pattern):
        return True
    try:
        return float(value) == float(pattern)
    except (TypeError, ValueError):
        return False
