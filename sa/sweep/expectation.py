"""What a study expects, as data, and whether the table of its runs agrees: pass, fail or open."""

import fnmatch
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pandas as pd
from annotated_types import Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import stats

from sa import ranking


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Expectation:
    """What a statistic of a sweep is expected to be, and by whom.

    id: names it. statistic: a number of the results, e.g. ``descent/best``. predicate and value:
    ``>= 0.9``, ``<= 0.9`` or ``between [0.8, 0.9]``. where: the runs it is of, as words
    ``KEY=VALUE`` with ``*`` as in `sweep.exclude`, all if empty; of several settings it is the
    mean of each seed's. against: other runs; the statistic is then the ``how`` (ratio,
    difference) of both means, seed by seed. tau: a
    setting or result: the statistic is then Kendall's tau with it, over the runs of each seed.
    source: where it is claimed.
    """

    id: str
    statistic: str
    predicate: Literal[">=", "<=", "between"]
    value: float | Annotated[list[float], Len(2, 2)]
    source: str
    where: str = ""
    against: str | None = None
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
    try:
        found = TypeAdapter(list[Expectation]).validate_python(list(given))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("; ".join(told)) from error
    names = [e.id for e in found]
    if len(set(names)) < len(names):
        raise ValueError(f"an id is used twice: {', '.join(names)}")
    return found


def judge(
    expected: Sequence[Expectation], table: pd.DataFrame, words: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Each expectation with what was observed: mean, its 95 % interval, n of what, the verdict.

    table: a run a row; words: the overrides of each run. pass: the whole interval over seeds (by
    Student's t; of one seed that over its settings, of one run its value) agrees; fail: none of it
    does; else inconclusive.
    """
    table = table.reset_index(drop=True).join(_typed(words))
    return [_judged(e, table) for e in expected]


def line(judged: dict[str, Any]) -> str:
    """One judged expectation in words."""
    value = judged["value"]
    asked = f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else f"{value:g}"
    asked = asked if judged["predicate"] == "between" else f"{judged['predicate']} {asked}"
    seen = judged["why"]
    if judged["observed"] is not None:
        low, high = judged["interval"]
        seen = f"{judged['observed']:.4g} [{low:.4g}, {high:.4g}] of {judged['n']} {judged['of']}"
    return f"{judged['verdict']}: {judged['id']}: {seen}; expected {asked} ({judged['source']})"


def _typed(words: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A column ``:KEY`` for every key that was typed, a run a row."""
    typed = [dict(w.lstrip("+").split("=", 1) for w in some if "=" in w) for some in words]
    keys = dict.fromkeys(k for one in typed for k in one)
    columns = {f":{k}": [one.get(k) for one in typed] for k in keys}
    return pd.DataFrame(columns, index=range(len(typed)))


def _judged(e: Expectation, table: pd.DataFrame) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": e.id, "statistic": e.statistic, "predicate": e.predicate, "value": e.value,
        "source": e.source, "observed": None, "interval": None, "n": 0, "of": "seeds",
        "verdict": "inconclusive", "why": "",
    }  # fmt: skip
    try:
        got = _observed(e, table).dropna()
    except KeyError as error:
        return out | {"why": f"no run has {error.args[0]}"}
    if got.empty:
        if e.tau is not None and not _chosen(table, e.where).empty:
            return out | {"why": f"no seed has three runs to order by {e.tau}"}
        return out | {"why": "no run has it"}
    mean, n, reach = float(got.mean()), len(got), 0.0
    if n > 1:
        reach = float(stats.t.ppf(0.975, n - 1) * got.std(ddof=1) / math.sqrt(n))
    low, high = e.bounds
    least, most = mean - reach, mean + reach
    if e.tau is not None:
        least, most = max(least, -1.0), min(most, 1.0)
    verdict = "pass" if low <= least and most <= high else "inconclusive"
    verdict = "fail" if most < low or least > high else verdict
    seeds = got.index.name == "seed"
    of = f"{'seed' if seeds else 'run'}{'s' if n > 1 else ''}{'' if seeds else ' of one seed'}"
    if seeds and e.tau is None and (short := _short(e, table)):
        of += f" ({short} without all settings)"
    seen = {"observed": mean, "interval": [least, most], "n": n, "of": of}
    return out | seen | {"verdict": verdict}


def _observed(e: Expectation, table: pd.DataFrame) -> pd.Series:
    """The statistic, a number a seed; of one seed's own, a number a run."""
    mine = _chosen(table, e.where)
    if e.tau is not None:
        other = f":{e.tau}" if f":{e.tau}" in table else e.tau
        seeds = mine.groupby("seed", dropna=False)
        taus = {
            s: ranking.kendall(_number(some, e.statistic), _number(some, other))
            for s, some in seeds
        }
        return pd.Series(taus, dtype=float).rename_axis("seed")
    if e.against is None:
        one = mine["seed"].nunique(dropna=False) == 1
        return _number(mine, e.statistic) if one else _means(mine, e.statistic)
    both = [_means(some, e.statistic) for some in (mine, _chosen(table, e.against))]
    return both[0] / both[1] if e.how == "ratio" else both[0] - both[1]


def _short(e: Expectation, table: pd.DataFrame) -> int:
    """Of how many seeds the mean is over fewer runs than others', as where a run failed."""
    sides = [_chosen(table, x) for x in (e.where, e.against) if x is not None]
    each = [_number(x, e.statistic).groupby(x["seed"], dropna=False).count() for x in sides]
    return len({seed for one in each for seed in one.index[one < one.max()]})


def _means(table: pd.DataFrame, column: str) -> pd.Series:
    return _number(table, column).groupby(table["seed"], dropna=False).mean()


def _number(table: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(table[column], errors="coerce").astype(float)


def _chosen(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The runs that have all of the words, by what was typed or else by their configuration."""
    for word in where.split():
        key, _, pattern = word.partition("=")
        column = table[f":{key}" if f":{key}" in table else key]
        if key in table:  # a point that did not type it has it all the same
            column = column.where(column.notna(), table[key])
        table = table.loc[[_alike(v, pattern) for v in column] if len(column) else []]
    return table


def _alike(value: Any, pattern: str) -> bool:
    if value is None or value != value:
        return pattern == "null"
    told = str(value).lower() if isinstance(value, bool) else str(value)
    if fnmatch.fnmatchcase(told, pattern):
        return True
    try:
        return float(value) == float(pattern)
    except (TypeError, ValueError):
        return False
