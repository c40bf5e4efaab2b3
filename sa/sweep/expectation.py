"""The expectations of a study, and their verdicts on its runs: pass, fail or inconclusive."""

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import pandas as pd
from annotated_types import Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sa.table import grouping, ranking
from sa.table.results import half_width, relative

Value = str | int | float | bool | None
"""A value that selects runs; ``*`` in a text matches anything."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Expectation:
    """The expected range of a statistic of a sweep.

    The statistic is a mean over the runs of each seed, unless ``against`` or ``tau`` is given.

    Args:
        id: its name.
        statistic: a result, e.g. ``test/accuracy``, as a fraction. Decreases (``descent/best``)
            are relative to the loss, as tables show them.
        predicate: ``>=``, ``<=`` or ``between``.
        value: the bound, or ``[low, high]`` for ``between``.
        source: who claims it: a paper, or a page.
        where: the runs, as a mapping of settings or results to values; all by default. A text may
            contain ``*``, as in `sweep.exclude`.
        against: other runs, as in ``where``. The statistic is then the ``how`` of both means, seed
            by seed.
        how: ``ratio`` or ``difference``.
        tau: a setting or result. The statistic is then Kendall's tau with it, over the runs of
            each seed.

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
            raise ValueError(
                f"{self.id}: value: {self.value} does not fit predicate: {self.predicate}; "
                "between needs two values [low, high], >= and <= need one"
            )
        if self.against is not None and self.tau is not None:
            raise ValueError(f"{self.id}: against and tau exclude each other; leave one out")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that agree with it."""
        if isinstance(self.value, list):
            return self.value[0], self.value[1]
        return (self.value, math.inf) if self.predicate == ">=" else (-math.inf, self.value)


def read(given: Sequence[dict[str, Any]]) -> list[Expectation]:
    """Return the expectations that an experiment lists; raise ValueError if one is wrong."""
    for one, side in ((e, s) for e in given for s in ("where", "against")):
        if isinstance(one.get(side), str):
            pairs = ", ".join(w.replace("=", ": ", 1) for w in one[side].split())
            wrong = f"{one.get('id')}: {side}: {one[side]!r} is a text"
            raise ValueError(f"{wrong}; write a mapping, {side}: {{{pairs}}}")
    try:
        found = TypeAdapter(list[Expectation]).validate_python(list(given))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("; ".join(problems)) from error
    ids = Counter(e.id for e in found)
    if twice := [i for i, n in ids.items() if n > 1]:
        raise ValueError(f"an id is used twice: {', '.join(twice)}; give each expectation its own")
    return found


def recorded(given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return recorded expectations; in old records ``where: "a=1 b=2"`` becomes a mapping."""
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
    """Return each expectation with its observation and verdict.

    - ``observed`` and ``interval``: the mean over seeds and its 95 % interval by Student's t. With
      one seed the interval is over its settings; with one run it is its value.
    - ``n`` and ``of``: the number of seeds or runs, and those that were left out.
    - ``verdict``: pass if the whole interval agrees and no run is missing; fail if no part of it
      agrees; else inconclusive.
    - ``missing``: of ``runs``, how many have no number, by reason: diverged, failed, lost, ..., or
      done without it. Numbers of diverged runs are not used, unless ``where`` has a ``status``.
    - ``over``: the settings that vary among the runs, over which the statistic is a mean or order.
    - ``why``: the reason if nothing was observed.

    Args:
        expected: the expectations.
        table: one row for each run, with ``status`` (without it all are done);
            ``attrs["results"]`` names the results.
        words: the overrides of each run.

    """
    results = table.attrs.get("results", [str(c) for c in table if "/" in str(c)])
    settings = list(table.attrs.get("settings", []))
    table = table.reset_index(drop=True).join(_typed(words))
    return [_judged(e, table, set(results), settings) for e in expected]


def line(judged: dict[str, Any]) -> str:
    """Return a judged expectation as a sentence."""
    value = judged["value"]
    bounds = f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else f"{value:g}"
    bounds = bounds if judged["predicate"] == "between" else f"{judged['predicate']} {bounds}"
    observed = judged["why"]
    if judged["observed"] is not None:
        low, high = judged["interval"]
        number = f"{judged['observed']:.4g} [{low:.4g}, {high:.4g}]"
        observed = f"{number} over {judged['n']} {judged['of']}"
        if judged["over"]:
            observed += f" and all values of {', '.join(judged['over'])}"
    missing = ", ".join(f"{n} of {judged['runs']} {how}" for how, n in judged["missing"].items())
    observed += f"; {missing}" if missing else ""
    verdict = f"{judged['verdict']}: {judged['id']}: {observed}"
    return f"{verdict}; expected {bounds} ({judged['source']})"


def _typed(words: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return a table with a column ``:KEY`` for each typed key and a row for each run."""
    typed = [dict(w.lstrip("+").split("=", 1) for w in some if "=" in w) for some in words]
    keys = dict.fromkeys(k for one in typed for k in one)
    columns = {f":{k}": [one.get(k) for one in typed] for k in keys}
    return pd.DataFrame(columns, index=range(len(typed)))


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class _Side:
    """The runs of an expectation, or those that it compares with.

    Args:
        runs: one row for each run.
        number: the statistic of each run; NaN if it has none that counts.
        missing: the reason for each run without a number.
        unmatched: how many done runs have the settings of ``where`` but not its results.

    """

    runs: pd.DataFrame
    number: pd.Series
    missing: pd.Series
    unmatched: int


def _judged(
    e: Expectation, table: pd.DataFrame, results: set[str], settings: list[str]
) -> dict[str, Any]:
    """Return one expectation with its observation and verdict."""
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
    values = every.dropna()
    if values.empty:
        if e.tau is not None and not sides[0].runs.empty:
            return out | {"why": f"no seed has three runs to order by {e.tau}"}
        both = "no seed has a number on both sides" if e.against is not None else "no run has it"
        return out | {"why": both}
    mean, n = float(values.mean()), len(values)
    reach = half_width(values) if n > 1 else 0.0
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
    out |= {"observed": mean, "interval": [least, most], "n": n, "of": of}
    return out | {"verdict": verdict}


def _side(
    e: Expectation, table: pd.DataFrame, where: Mapping[str, Value], results: set[str]
) -> _Side:
    """Return the runs that match; runs that are not done may still get matching results."""
    having = _chosen(table, {k: v for k, v in where.items() if k not in results})
    matching = _chosen(having, {k: v for k, v in where.items() if k in results})
    status = having["status"] if "status" in having else pd.Series("done", having.index)
    open_ = having.index[(status != "done") & ("status" not in where)]
    chosen = having.index.isin(matching.index.union(open_))
    runs, status = having[chosen], status[chosen]
    number = _number(runs, e.statistic)
    number = number.mask(runs.index.isin(open_))
    missing = status.where(runs.index.isin(open_), f"without {e.statistic}")[number.isna()]
    if e.tau is not None:
        ordered_by = _number(runs, _column(table, e.tau))
        number = number.mask(ordered_by.isna())
        none = number.isna() & ~number.index.isin(missing.index)
        missing = pd.concat([missing, pd.Series(f"without {e.tau}", number.index[none])])
    return _Side(runs, number, missing, int((~chosen).sum()))


def _pooled(runs: pd.DataFrame, settings: list[str], order: str | None) -> list[str]:
    """Return the settings that vary among runs. If settings vary together, the shortest name stays.

    Args:
        runs: one row for each run.
        settings: their names.
        order: a column; settings that it determines are left out.

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
    """Return the statistic of each seed, or of each run if there is one seed; NaN if undefined."""
    side = sides[0]
    if e.tau is not None:
        ordered_by = _number(side.runs, _column(table, e.tau))
        seeds = side.number.groupby(side.runs["seed"], dropna=False)
        taus = {s: ranking.kendall(runs, ordered_by.loc[runs.index]) for s, runs in seeds}
        return pd.Series(taus, dtype=float).rename_axis("seed")
    if e.against is None:
        one = side.runs["seed"].nunique(dropna=False) == 1
        return side.number if one else _means(side)
    left, right = (_means(x) for x in sides)
    compared = left / right if e.how == "ratio" else left - right
    return compared.where(compared.abs() < math.inf)


def _undefined(e: Expectation, sides: Sequence[_Side], every: pd.Series) -> int:
    """Return how many seeds have all numbers but no statistic, because of 0 / 0 or ties."""
    if e.tau is None and e.against is None:
        return 0
    need = 1 if e.tau is None else 3
    full = [set(_counts(x.number, x.runs).loc[lambda n: n >= need].index) for x in sides]
    return len(set(every.index[every.isna()]) & set.intersection(*full))


def _of(e: Expectation, sides: Sequence[_Side], every: pd.Series, undefined: int) -> str:
    """Return the unit that was counted, and the units left out: ``seeds (1 without a pair)``."""
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
    """Return how many seeds have fewer runs with a number than the fullest seed."""
    each = [_counts(side.number, side.runs) for side in sides]
    several = [one for one in each if not one.empty and one.max() > 1]
    return len({seed for one in several for seed in one.index[one < one.max()]})


def _counts(number: pd.Series, runs: pd.DataFrame) -> pd.Series:
    """Return how many runs of each seed have a number."""
    return number.groupby(runs["seed"], dropna=False).count()


def _means(side: _Side) -> pd.Series:
    """Return the mean of each seed."""
    return side.number.groupby(side.runs["seed"], dropna=False).mean()


def _number(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as tables show it; NaN if it is not finite, or if no run has it."""
    number = relative(table, column)
    return number.where(number.abs() < math.inf)


def _column(table: pd.DataFrame, key: str) -> str:
    """Return the column of a setting or result: as it was typed, else as it was resolved."""
    name = f":{key}" if f":{key}" in table else key
    if name not in table:
        raise KeyError(key)
    return name


def _chosen(table: pd.DataFrame, where: Mapping[str, Value]) -> pd.DataFrame:
    """Return the runs that match all values, by what was typed, else by their configuration."""
    for key, wanted in where.items():
        column = table[_column(table, key)]
        if key in table:  # a point that did not type a setting has its default
            column = column.where(column.notna(), table[key])
        table = table.loc[[_alike(v, wanted) for v in column] if len(column) else []]
    return table


def _alike(value: Any, wanted: Value) -> bool:
    """Return whether a value, as it was typed or resolved, matches the wanted one."""
    if value is None or value != value or value == "null":
        return wanted in (None, "null")
    if value == "{}":  # an option without settings, such as init=none
        return wanted in (None, "null", "none")
    text, pattern = str(value), str(wanted)
    if text.lower() in ("true", "false"):
        text, pattern = text.lower(), pattern.lower()
    if fnmatch.fnmatchcase(text, pattern):
        return True
    try:
        return float(value) == float(pattern)
    except (TypeError, ValueError):
        return False
