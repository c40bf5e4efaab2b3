"""The settings that vary in a sweep, and the runs that differ in the seed alone.

Every table, figure and ranking over seeds groups its runs by these functions.
"""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

REPLICATE = "seed"
"""The setting that repeats a configuration; any other difference is another configuration."""

FOLLOWS = "by seed"
"""The value that `configurations` gives to a setting like ``init_seed`` that follows the seed."""


def varying(settings: "pd.DataFrame") -> list[str]:
    """Return the names of the settings that differ between configurations, in column order.

    Args:
        settings: ``table[table.attrs["settings"]]``, with one row for each run and one column for
            each setting. A setting that a run lacks is None or NaN, which counts as a value.

    """
    plain = _plain(settings)
    return [str(c) for c in plain if plain[c].nunique() > 1]


def configurations(settings: "pd.DataFrame") -> "pd.Series":
    """Return the number of each run's configuration, 0, 1, ... in order of appearance.

    Runs have the same number exactly if they differ in the seed alone.

    Args:
        settings: one row for each run, as in `varying`.

    """
    import pandas as pd

    plain = _plain(settings)
    found: dict[tuple[str, ...], int] = {}
    rows = plain.itertuples(index=False, name=None)
    return pd.Series([found.setdefault(row, len(found)) for row in rows], settings.index, dtype=int)


def is_replicate(word: str) -> bool:
    """Return True if a word of the command line, or its key, sets the seed: ``seed=1``."""
    return word.lstrip("+").partition("=")[0] == REPLICATE


def key(value: Any) -> str:
    """Return a text that is equal for equal settings: 1 and 1.0 are, 1, True and "1" are not."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    """Return a value as JSON has it: lists for arrays, None for NaN, 1 for 1.0."""
    import numpy as np
    import pandas as pd

    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):  # parquet returns these types
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if value is None or value is pd.NA or value != value:
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(settings: "pd.DataFrame") -> "pd.DataFrame":
    """Return the keys of all settings but the seed; another seed that follows it is `FOLLOWS`."""
    import pandas as pd

    keys = pd.DataFrame({c: settings[c].map(key, na_action=None) for c in settings}, dtype=object)
    keys = keys.reindex(settings.index)
    seed = keys.pop(REPLICATE) if REPLICATE in keys else pd.Series("", index=keys.index)
    seeds = [c for c in keys if _is_seed(str(c)) and keys[c].nunique() > 1]
    rest = keys.drop(columns=seeds)
    alike = pd.Series(list(rest.itertuples(index=False, name=None)), keys.index, dtype=object)
    for c in seeds:
        keys[c] = _following(keys[c], seed, alike)
    return keys


def _is_seed(name: str) -> bool:
    """Return True if a setting is a seed: ``seed``, ``init_seed``, ``dataset.seed``."""
    last = name.rpartition(".")[2]
    return last == "seed" or last.endswith("_seed")


def _following(values: "pd.Series", seed: "pd.Series", alike: "pd.Series") -> "pd.Series":
    """Return the values of another seed; those that follow the replicate become `FOLLOWS`.

    Among runs that are alike in all other settings, a value that several seeds have is a setting
    like any other (``init_seed=7``). The other values follow the replicate if each seed has one.
    """
    out = values.copy()
    single = []
    for _, group in values.groupby(alike):
        seeds = seed.loc[group.index]
        if seeds.nunique() < 2:
            single += list(group.index) if len(group) == 1 else []
            continue
        own = group[seeds.groupby(group).transform("nunique") < 2]
        if own.groupby(seeds.loc[own.index]).nunique().max() == 1:
            out.loc[own.index] = FOLLOWS
    if (out == FOLLOWS).any():  # a single run shows no difference: it goes with the others
        out.loc[single] = FOLLOWS
    return out
