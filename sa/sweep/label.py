"""Labels of the runs of a sweep, one for each configuration."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sa.table.grouping import configurations, is_replicate, varying

if TYPE_CHECKING:
    import pandas as pd

Points = Sequence[dict[str, Any]]

DEFAULTS = "the defaults"
"""The label of a run without overrides, if other runs have some."""

EVERY = "every run"
"""The label of all runs, if there is one configuration."""


def typed_settings(points: Points) -> list[dict[str, str]]:
    """Return the overrides of each point as a mapping, with ``seed``."""
    return [dict(w.lstrip("+").split("=", 1) for w in p["overrides"] if "=" in w) for p in points]


def full_labels(points: Points, table: "pd.DataFrame") -> list[str]:
    """Return the full label of each run: all its overrides but the seed."""
    words = [" ".join(w for w in p["overrides"] if not is_replicate(w)) for p in points]
    return _distinct([w or _unnamed(words) for w in words], table)


def short_labels(points: Points, table: "pd.DataFrame") -> list[str]:
    """Return the short label of each run: ``model=cnn lr=1``, or ``cnn`` if one setting varies.

    The label is '' if nothing varies but the seed.
    """
    words = typed_settings(points)
    keys = dict.fromkeys(k for one in words for k in one if not is_replicate(k))
    vary = [k for k in keys if len({one.get(k) for one in words}) > 1]
    values = [str(one.get(vary[0])) for one in words] if len(vary) == 1 else []
    if values and not any(re.fullmatch(r"(?i)true|false|none|[-\d.e]+", v) for v in values):
        return _distinct(values, table)
    names = {k: _shortest(k, vary) for k in vary}
    labels = [" ".join(f"{names[k]}={one[k]}" for k in vary if k in one) for one in words]
    return _distinct([x or _unnamed(labels) for x in labels] if vary else labels, table)


def _unnamed(labels: Sequence[str]) -> str:
    """Return the label of a run without overrides, beside runs with these labels."""
    return DEFAULTS if any(labels) else EVERY


def _shortest(key: str, keys: Sequence[str]) -> str:
    """Return the shortest end of a dotted name that no other name ends with."""
    parts = key.split(".")
    ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
    return next((e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1), key)


def _distinct(labels: list[str], table: "pd.DataFrame") -> list[str]:
    """Return one label for each configuration: its first run's, with settings added to ties.

    Args:
        labels: a label for each run.
        table: one row for each run; without ``attrs["settings"]`` the labels stay as they are.

    """
    names = table.attrs.get("settings")
    if not names:
        return labels
    settings = table[names]
    group = configurations(settings).tolist()
    first: dict[int, int] = {}
    for at, g in enumerate(group):
        first.setdefault(g, at)
    found = {g: labels[at] for g, at in first.items()}
    for label in set(found.values()):
        tied = [g for g in found if found[g] == label]
        rows = settings.iloc[[first[g] for g in tied]]
        for column in varying(rows) if len(tied) > 1 else []:
            for g, value in zip(tied, rows[column], strict=True):
                found[g] += f" {column.rpartition('.')[2]}={value}"
    return [found[g].removeprefix(f"{DEFAULTS} ").removeprefix(f"{EVERY} ") for g in group]
