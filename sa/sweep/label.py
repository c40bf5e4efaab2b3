"""What a run is called beside the others of its sweep: one label a configuration."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sa.table.grouping import configurations, is_replicate, varying

if TYPE_CHECKING:
    import pandas as pd

Points = Sequence[dict[str, Any]]

DEFAULTS = "the defaults"
"""The label of a run for which nothing was typed, beside runs for which something was."""

EVERY = "every run"
"""The label where all runs are of one configuration."""


def typed(points: Points) -> list[dict[str, str]]:
    """Return the words of each point as a mapping, ``seed`` among them."""
    return [dict(w.lstrip("+").split("=", 1) for w in p["overrides"] if "=" in w) for p in points]


def worded(points: Points, table: "pd.DataFrame") -> list[str]:
    """Return the label of each run in full: all its words but the seed's."""
    words = [" ".join(w for w in p["overrides"] if not is_replicate(w)) for p in points]
    return _distinct([w or _unnamed(words) for w in words], table)


def varied(points: Points, table: "pd.DataFrame") -> list[str]:
    """Return the label of each run in short: ``model=cnn lr=1``, or ``cnn`` if one thing varies.

    '' if nothing varies beside the seed.
    """
    words = typed(points)
    keys = dict.fromkeys(k for one in words for k in one if not is_replicate(k))
    kept = [k for k in keys if len({one.get(k) for one in words}) > 1]
    values = [str(one.get(kept[0])) for one in words] if len(kept) == 1 else []
    if values and not any(re.fullmatch(r"(?i)true|false|none|[-\d.e]+", v) for v in values):
        return _distinct(values, table)
    names = {k: _shortest(k, kept) for k in kept}
    told = [" ".join(f"{names[k]}={one[k]}" for k in kept if k in one) for one in words]
    return _distinct([x or _unnamed(told) for x in told] if kept else told, table)


def _unnamed(words: Sequence[str]) -> str:
    """Return the label of a run without words of its own beside the others'."""
    return DEFAULTS if any(words) else EVERY


def _shortest(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted name that no other of the names has."""
    parts = key.split(".")
    ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
    return next((e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1), key)


def _distinct(labels: list[str], table: "pd.DataFrame") -> list[str]:
    """The labels, one a configuration: that of its first run, and what differs where two tie.

    table: a run a row; without ``attrs["settings"]`` the labels stay as they are.
    """
    names = table.attrs.get("settings")
    if not names:
        return labels
    settings = table[names]
    group = configurations(settings).tolist()
    first: dict[int, int] = {}
    for at, g in enumerate(group):
        first.setdefault(g, at)
    told = {g: labels[at] for g, at in first.items()}
    for label in set(told.values()):
        tied = [g for g in told if told[g] == label]
        rows = settings.iloc[[first[g] for g in tied]]
        for column in varying(rows) if len(tied) > 1 else []:
            for g, value in zip(tied, rows[column], strict=True):
                told[g] += f" {column.rpartition('.')[2]}={value}"
    return [told[g].removeprefix(f"{DEFAULTS} ").removeprefix(f"{EVERY} ") for g in group]
