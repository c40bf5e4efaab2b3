"""The settings that vary in a table, and the varying settings that a figure does not show.

A kind names the columns that its axes, colours and panels show. `unshown` finds the settings that
vary beside them; `sa.figure.draw` draws a row of panels for each of their values, and adds every
varying setting to the exported table.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sa.table.grouping import REPLICATE, configurations, key, varying

LOOSE = ("dim", "batch_size", "batchnorm", "moving", "steps", "epochs", "dtype", "until", "clip")
"""Settings without a dot in their name that a table without ``attrs["settings"]`` may have."""


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a table that are settings: ``attrs["settings"]`` names them.

    In a table without it a setting has a dot and no slash in its name, or is one of `LOOSE`.
    """
    names = table.attrs.get("settings")
    if names is None:
        names = [str(c) for c in table if ("." in str(c) and "/" not in str(c)) or c in LOOSE]
        names += [c for c in (REPLICATE,) if c in table]
    return table[[c for c in names if c in table]]


def varying_settings(table: pd.DataFrame) -> list[str]:
    """Return the names of the settings that vary in a table, without the seed."""
    return varying(settings(table))


def replicates(table: pd.DataFrame) -> str:
    """Return how many runs a configuration has: ``3 seeds each`` or ``2 to 3 seeds each``."""
    if REPLICATE not in table:
        return ""
    each = table[REPLICATE].groupby(configurations(settings(table))).nunique()
    if each.empty or each.max() < 1:
        return ""
    low, high = int(each.min()), int(each.max())
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"{count} seed{'s' if high > 1 else ''} each"


def unshown(table: pd.DataFrame, shown: Sequence[pd.Series] = ()) -> pd.Series:
    """Return a text for each run: its settings that vary and that ``shown`` does not determine.

    Runs with equal texts and equal shown values differ in the seed alone. Words that were typed
    (column ``typed``, a mapping a run) come first, then further settings by their own names. Words
    that refer to another setting (``${dim}``) are left out.
    """
    config = configurations(settings(table))
    groups = _combined(table.index, shown)
    by_shown, parts = groups, {}
    for name, values in _candidates(table):
        if values.map(key).groupby(config).nunique().max() > 1:  # the setting follows the seed
            continue
        typed = name.startswith("typed ")
        if _splits(by_shown if typed else groups, values):
            parts[name.removeprefix("typed ")] = values
            groups = _combined(table.index, [groups, values])
    names = short_names(list(parts))
    bare = len(parts) == 1 and not _numeric(next(iter(parts.values())))
    texts = pd.Series("", table.index)
    for name, values in parts.items():
        words = [_assignment("" if bare else names[name], v) for v in values]
        if len(set(words)) < values.map(key).nunique():  # rounding made texts equal
            words = [f"{names[name]}={key(v)}" for v in values]
        texts = texts + pd.Series([f"{w} " if w else "" for w in words], table.index)
    return texts.str.strip()


def _candidates(table: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Return (name, values) of the words typed, then of the settings that vary."""
    typed = list(table["typed"]) if "typed" in table else []
    names = dict.fromkeys(k for one in typed for k in one if k != REPLICATE)
    words = [
        (f"typed {k}", pd.Series([one.get(k) for one in typed], table.index, dtype=object))
        for k in names
    ]
    words = [(k, v) for k, v in words if not v.astype(str).str.contains("${", regex=False).any()]
    return words + [(k, table[k]) for k in varying_settings(table)]


def _combined(index: pd.Index, columns: Sequence[pd.Series]) -> pd.Series:
    """Return a number for each row, equal exactly if all columns are equal."""
    keys = zip(*(c.map(key) for c in columns), strict=True) if columns else [()] * len(index)
    return pd.Series(pd.factorize(pd.Series(list(keys), dtype=object))[0], index, dtype=int)


def _splits(groups: pd.Series, values: pd.Series) -> bool:
    """Return whether a group has several of the values."""
    return bool(_combined(groups.index, [groups, values]).nunique() > groups.nunique())


def _numeric(values: pd.Series) -> bool:
    """Return whether any value is a number, true or false."""
    return bool(pd.to_numeric(values.dropna(), errors="coerce").notna().any()) or any(
        str(v).lower() in ("true", "false") for v in values.dropna()
    )


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted name, or the last two if others end alike."""
    out = {}
    for name in names:
        parts = name.removesuffix("._target_").split(".")
        alike = sum(n.removesuffix("._target_").split(".")[-1] == parts[-1] for n in names)
        out[name] = ".".join(parts[-2:] if alike > 1 else parts[-1:])
    return out


def value_text(value: Any, digits: int = 6) -> str:
    """Return a value as people read it: numbers short, the class of a component, '' for null."""
    if value is None or value != value:
        return ""
    text = f"{value:.{digits}g}" if isinstance(value, float) else str(value).replace('"', "")
    is_class = text.startswith("sa.") and " " not in text
    return text.rpartition(".")[2] if is_class else text


def _assignment(name: str, value: Any) -> str:
    """Return ``lr=0.1``, the value alone without a name, or '' if the run lacks the setting."""
    text = value_text(value)
    return f"{name}={text}" if name and text else text


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of the table, or the values of a setting as they were typed.

    If an option of a group has no settings (``init=none``), the table has a column of the group's
    name, which is empty for the other options. Then the words that were typed tell them apart.
    """
    typed = [one.get(name) for one in table.get("typed", [])]
    named = bool(typed) and None not in typed
    if name in table and not (named and (table[name].isna() | (table[name] == "{}")).any()):
        return table[name]
    if all(v is None for v in typed):
        raise ValueError(
            f"the table has no column {name}, and no run has {name}= in its command; use a "
            "setting or a result of the runs"
        )
    return pd.Series(typed, table.index, dtype=object)


def texts(values: pd.Series) -> pd.Series:
    """Return the values of a setting as `value_text` writes them, ``null`` for none."""
    return values.map(lambda v: value_text(v, 12), na_action=None).replace("", "null")
