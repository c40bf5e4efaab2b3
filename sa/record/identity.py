"""The identity of a run: the hash of its configuration minus bookkeeping."""

import hashlib
import json
from typing import Any

from sa.record.files import RecordError

Config = dict[str, Any]
"""A resolved configuration as plain data: what a run's folder keeps as config.yaml."""

BOOKKEEPING = frozenset(
    "root tracker sweep figure checkpoint_seconds processes threads memory progress objective "
    "hydra experiment description full sizes expectations dataset.root epochs".split()
)
"""Settings that change no number of a result, and so are no part of a run's id.

``epochs`` is another way to say ``steps``, which is.
"""


LATER = frozenset(
    "until schedule average recalibrate clip decay_all quantizer_lr init_average replicas autocast "
    "compile stored snapshot_every ends init_seed".split()
)
"""Settings younger than the first runs: at null, false or {} they are no part of an id."""


DEFAULTS = {"diverge": 1000}
"""Settings younger than the first runs that are on by default: as here no part of an id."""


MOVED = {
    "sa.average.Average": "sa.training.average.Average",
    "sa.optimizer.Muon": "sa.training.muon.Muon",
    "sa.schedule.Annealed": "sa.training.schedule.Annealed",
    "sa.schedule.Stairs": "sa.training.schedule.Stairs",
    "sa.tracker.Wandb": "sa.tracking.wandb.Wandb",
}
"""Classes that have moved: the name that records of before have -> the name of today."""

_FIRST = {new: old for old, new in MOVED.items()}


def current(config: Any) -> Any:
    """Return a configuration, as a record of any age has it, with the class names of today."""
    if isinstance(config, dict):
        return {k: current(v) for k, v in config.items()}
    if isinstance(config, list):
        return [current(v) for v in config]
    return MOVED.get(config, config) if isinstance(config, str) else config


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a run itself: the config minus bookkeeping, 1.0 = 1, tuples = lists.

    Classes that have moved count by their first name, so that ids of before are found again.
    """
    unset = BOOKKEEPING | {k for k in LATER if is_off(config.get(k))}
    unset |= {k for k, v in DEFAULTS.items() if config.get(k, v) == v}
    return {str(k): _canonical(v, str(k)) for k, v in config.items() if k not in unset}


def is_off(value: Any) -> bool:
    """Whether a setting of `LATER` has the value of runs that are older than it."""
    return not value and (value is False or not isinstance(value, int))  # 0 is a seed


def run_id(config: dict[str, Any]) -> str:
    """Ten hexadecimal digits of the identity; equal identities, equal id, on every machine."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _canonical(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        named = ((str(k), f"{key}.{k}", v) for k, v in value.items())
        return {k: _canonical(v, path) for k, path, v in named if path not in BOOKKEEPING}
    if isinstance(value, list | tuple):
        return [_canonical(v, key) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return _FIRST.get(value, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise RecordError(f"{key}={value!r}: a setting is a number, text, list or mapping")
