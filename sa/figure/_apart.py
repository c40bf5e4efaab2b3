"""What a figure keeps apart: every setting that varies in its sweep, less the replicate.

A kind names the columns that its axes, colours and panels show. `rest` finds what they leave out;
`sa.figure.draw` gives each value of that a row of panels of its own, and every row of the exported
table the varying settings.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sa.table.grouping import REPLICATE, configurations, key, varying

LOOSE = ("dim", "batch_size", "batchnorm", "moving", "steps", "epochs", "dtype", "until", "clip")
"""Settings without a dot in their name that a table without ``attrs["settings"]`` may have."""


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """The settings of a table: ``attrs["settings"]`` names them.

    In a table without it a setting has a dot and no slash in its name, or is one of `LOOSE`.
    """
    names = table.attrs.get("settings")
    if names is None:
        names = [str(c) for c in table if ("." in str(c) and "/" not in str(c)) or c in LOOSE]
        names += [c for c in (REPLICATE,) if c in table]
    return table[[c for c in names if c in table]]


def varied(table: pd.DataFrame) -> list[str]:
    """The names of the settings that vary in a table, less the replicate."""
    return varying(settings(table))


def replicates(table: pd.DataFrame) -> str:
    """How many runs there are of a configuration, in words: ``3 seeds`` or ``2 to 3 seeds``."""
    if REPLICATE not in table:
        return ""
    each = table[REPLICATE].groupby(configurations(settings(table))).nunique()
    if each.empty or each.max() < 1:
        return ""
    low, high = int(each.min()), int(each.max())
    many = f"{high}" if low == high else f"{low} to {high}"
    return f"{many} seed{'s' if high > 1 else ''} each"


def rest(table: pd.DataFrame, shown: Sequence[pd.Series] = ()) -> pd.Series:
    """In words, for each run, the settings that vary and that the shown columns do not tell.

    Runs with equal words and equal shown values differ in the replicate alone. Words that were
    typed come first (column ``typed``, a mapping a run), then settings by their own names.
    """
    config = configurations(settings(table))
    at = _joint(table.index, shown)
    first, parts = at, {}
    for name, values in _candidates(table):
        if values.map(key).groupby(config).nunique().max() > 1:  # it follows the replicate
            continue
        typed = name.startswith("typed ")
        if _splits(first if typed else at, values):
            parts[name.removeprefix("typed ")] = values
            at = _joint(table.index, [at, values])
    names = short(list(parts))
    bare = len(parts) == 1 and not _numeric(next(iter(parts.values())))
    told = pd.Series("", table.index)
    for name, values in parts.items():
        words = [_word("" if bare else names[name], v) for v in values]
        if len(set(words)) < values.map(key).nunique():  # rounded alike
            words = [f"{names[name]}={key(v)}" for v in values]
        told = told + pd.Series([f"{w} " if w else "" for w in words], table.index)
    return told.str.strip()


def _candidates(table: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """(name, values) of the words typed, then of the settings that vary."""
    typed = list(table["typed"]) if "typed" in table else []
    names = dict.fromkeys(k for one in typed for k in one if k != REPLICATE)
    words = [
        (f"typed {k}", pd.Series([one.get(k) for one in typed], table.index, dtype=object))
        for k in names
    ]
    return words + [(k, table[k]) for k in varied(table)]


def _joint(index: pd.Index, columns: Sequence[pd.Series]) -> pd.Series:
    """A number for each combination of the columns' values."""
    keys = zip(*(c.map(key) for c in columns), strict=True) if columns else [()] * len(index)
    found: dict[tuple[str, ...], int] = {}
    return pd.Series([found.setdefault(k, len(found)) for k in keys], index, dtype=int)


def _splits(groups: pd.Series, values: pd.Series) -> bool:
    return bool(_joint(groups.index, [groups, values]).nunique() > groups.nunique())


def _numeric(values: pd.Series) -> bool:
    return bool(pd.to_numeric(values.dropna(), errors="coerce").notna().any()) or any(
        str(v).lower() in ("true", "false") for v in values.dropna()
    )


def short(names: Sequence[str]) -> dict[str, str]:
    """Return the last word of each name, and one more where two would be alike."""
    out = {}
    for name in names:
        words = name.removesuffix("._target_").split(".")
        alike = sum(n.removesuffix("._target_").split(".")[-1] == words[-1] for n in names)
        out[name] = ".".join(words[-2:] if alike > 1 else words[-1:])
    return out


def _word(name: str, value: Any) -> str:
    """One setting in words: ``lr=0.1``; of a component its class; '' where a run lacks it."""
    if value is None or value != value:
        return ""
    told = f"{value:g}" if isinstance(value, float) else str(value).replace('"', "")
    if told.startswith("sa.") and " " not in told:  # a class
        told = told.rpartition(".")[2]
    return f"{name}={told}" if name else told
