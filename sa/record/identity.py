"""The id of a run: the hash of its configuration without the bookkeeping."""

import hashlib
import json
from typing import Any

from sa.record.files import RecordError

Config = dict[str, Any]
"""A resolved configuration as plain data, as config.yaml in a run's folder holds it."""

BOOKKEEPING = frozenset(
    "root tracker sweep figure checkpoint_seconds processes threads memory progress metric "
    "objective hydra experiment description full sizes expectations dataset.root epochs".split()
)
"""Settings that change no number of a result; they are no part of a run's id.

``epochs`` is here because ``steps``, which is computed from it, is part of the id. ``metric`` was
called ``objective`` before: both names are here, so that the renaming changes no id.
"""


LATER = frozenset(
    "until schedule average recalibrate clip decay_all quantizer_lr init_average replicas autocast "
    "compile stored snapshot_every ends init_seed rules augment".split()
)
"""Settings that the first runs did not have; null, false and {} are no part of an id."""


LATER_OF_COMPONENTS = frozenset({"dataset.fresh"})
"""Settings of components that the first runs did not have; at false they are no part of an id."""


FIRST_VALUES = {("sa.model.resnet.ResNet", "depth"): 32, ("sa.model.vgg.VGG", "depth"): 11}
"""Settings of classes that the first runs did not have -> the value that is no part of an id."""


DEFAULTS = {"diverge": 1000, "mode": "eval"}
"""Settings that the first runs did not have, with defaults that are no part of an id."""


MOVED = {
    "sa.model.resnet32.ResNet32": "sa.model.resnet.ResNet",
    "sa.model.vgg11.VGG11": "sa.model.vgg.VGG",
    "sa.average.Average": "sa.training.average.Average",
    "sa.optimizer.Muon": "sa.training.muon.Muon",
    "sa.schedule.Annealed": "sa.training.schedule.Annealed",
    "sa.schedule.Stairs": "sa.training.schedule.StepDecay",
    "sa.training.schedule.Stairs": "sa.training.schedule.StepDecay",
    "sa.tracker.Wandb": "sa.tracking.wandb.Wandb",
}
"""Classes that have moved: name in older records -> name of today. The first name comes first."""

RENAMED = {"objective": "metric"}
"""Settings that were renamed: name in older records -> name of today."""

_FIRST = {new: old for old, new in reversed(MOVED.items())}
"""Name of today -> the first name of the class, which ids are hashed from."""


def current(config: Config) -> Config:
    """Return the configuration from a record of any age with the names of today."""
    return {RENAMED.get(k, k): _classes(v) for k, v in config.items()}


def _classes(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _classes(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_classes(v) for v in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's id is hashed from: the configuration without the bookkeeping.

    1.0 becomes 1 and tuples become lists. A class that has moved has its first name, so that a run
    keeps its id.
    """
    config = placeless(config)
    config = {**config, "rules": _by_layer(config.get("rules"))}
    unset = BOOKKEEPING | {k for k in LATER if is_off(config.get(k))}
    unset |= {k for k, v in DEFAULTS.items() if config.get(k, v) == v}
    return {str(k): _canonical(v, str(k)) for k, v in config.items() if k not in unset}


def _by_layer(rules: Any) -> Any:
    """Return the quantizer of each layer and slot, if the layers that rules reach are known.

    Neither the names of rules nor the way their patterns are written changes a number.
    """
    if not isinstance(rules, dict) or not all("layers" in rule for rule in rules.values()):
        return rules
    return {
        f"{layer}.{slot}": rule[slot]
        for rule in rules.values()
        for slot, layers in rule["layers"].items()
        for layer in layers
    }


def placeless(config: Config) -> Config:
    """Return the configuration without the ``path`` of data or weights whose ``sha`` is known."""
    found = dict(config)
    for group in ("dataset", "model"):
        own = config.get(group)
        if isinstance(own, dict) and own.get("sha"):
            found[group] = {k: v for k, v in own.items() if k != "path"}
    return found


def is_off(value: Any) -> bool:
    """Return whether a setting of `LATER` is off, as in the runs that did not have it."""
    return not value and (value is False or not isinstance(value, int))  # init_seed=0 is on


def run_id(config: dict[str, Any]) -> str:
    """Return the id of a configuration's run: ten hexadecimal digits, equal on every machine."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _canonical(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        named = [(str(k), f"{key}.{k}", v) for k, v in value.items()]
        unset = BOOKKEEPING | {p for _, p, v in named if p in LATER_OF_COMPONENTS and is_off(v)}
        of = str(value.get("_target_"))
        unset |= {p for k, p, v in named if (of, k) in FIRST_VALUES and FIRST_VALUES[of, k] == v}
        return {k: _canonical(v, path) for k, path, v in named if path not in unset}
    if isinstance(value, list | tuple):
        return [_canonical(v, key) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return _FIRST.get(MOVED.get(value, value), value)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise RecordError(f"{key}={value!r}: expected a number, text, list or mapping")
