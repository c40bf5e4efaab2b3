"""Components: built from their settings, of the classes that `sa.config.trust` allows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sa.config.error import UsageError, invalid, typed
from sa.config.settings import Settings
from sa.config.trust import MODULE, allowed, targets

_NO_STEP = {
    "torch.optim.LBFGS": "it evaluates the loss several times a step; a step here has one gradient",
    "torch.optim.SparseAdam": "it takes sparse gradients; those here are dense",
}
"""Optimizers of torch that cannot step with one dense gradient -> the reason."""

_MADE: dict[str, Any] = {}


@dataclass(frozen=True)
class Components:
    """The objects of a configuration, all of them checked.

    Args:
        settings: the settings that are no components.
        task: the loss: network, data, and how they are evaluated.
        estimator: the gradient estimator.
        optimizer: the class of the optimizer with its settings; call it with the parameters.
        recipe: the other parts of a training: schedule, average, clipping, goals.
        analyses: the analyses, by their names.
        tracker: the mirror of the record, such as W&B.

    """

    settings: Settings
    task: Any
    estimator: Any
    optimizer: partial[Any]
    recipe: Any
    analyses: dict[str, Any]
    tracker: Any


def make(key: str, node: Any) -> Any:
    """Return a component, built once a process: components are frozen, and a plan repeats them.

    Args:
        key: its place in the configuration, such as estimator, for messages.
        node: its settings, with the class under ``_target_``.

    """
    name = json.dumps([key, node], sort_keys=True, default=str)
    if name not in _MADE:
        _MADE[name] = _instantiate(key, node)
    return _MADE[name]


def _instantiate(key: str, node: Any) -> Any:
    """Return a new component; UsageError if its settings are wrong, with their dotted names."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(
            f"{key}={typed(node)}: expected the name of an option; --help {key} lists them"
        )
    if why := _NO_STEP.get(str(node["_target_"])):
        name = str(node["_target_"]).rpartition(".")[2]
        raise UsageError(f"{key}={name}: {why}; take another, e.g. optimizer=adam")
    for path, target in targets(node, key):
        allowed(path, target)
    made = _construct(key, node)
    _check_kind(key, node["_target_"], made)
    if key == "optimizer":
        import torch

        try:
            made([torch.zeros(1, requires_grad=True)])  # torch checks ranges at construction
        except UsageError:
            raise
        except (ValueError, TypeError) as error:
            raise UsageError(invalid(key, node, error)) from error
    for name, value in node.items():  # pydantic accepts true as 1
        got = getattr(made, name, value)  # a setting is known by its name alone
        if isinstance(value, bool) and not isinstance(got, bool):
            raise UsageError(f"{key}.{name}={typed(value)}: expected a number")
    return made


def _construct(key: str, node: Any) -> Any:
    """Return a node with an object in place of every mapping that has a ``_target_``.

    Hydra's own `instantiate` would also read texts as interpolations, which can hold a class that
    nobody has checked.
    """
    if isinstance(node, list | tuple):
        return tuple(_construct(f"{key}.{at}", x) for at, x in enumerate(node))  # can be hashed
    if not isinstance(node, Mapping):
        return node
    settings = {
        str(k): _construct(f"{key}.{k}", v)
        for k, v in node.items()
        if k not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return settings
    cls = allowed(f"{key}._target_", node["_target_"])
    if node["_target_"] == MODULE and node.get("target"):
        settings["target"] = allowed(f"{key}.target", node["target"])
    try:
        return partial(cls, **settings) if node.get("_partial_") else cls(**settings)
    except Exception as error:  # a class of others may raise anything
        raise UsageError(invalid(key, node, error)) from error


_NEEDS = {
    "estimator": {"target", "init", "__call__"},
    "model": {"shape", "outputs", "build"},
    "dataset": {"shape", "classes", "rows", "load"},
    "analysis": {"__call__"},
}
"""Room -> the attributes of its members."""


def _check_kind(key: str, target: str, made: Any) -> None:
    """Raise UsageError for a class of another room."""
    room = key.partition(".")[0]
    lacks = sorted(_NEEDS.get(room, set()) - set(dir(made)))
    if lacks:
        raise UsageError(
            f"{key}={target}: this class is not of the kind {room}, it has no {', '.join(lacks)}; "
            f"--help {room} lists the options"
        )
