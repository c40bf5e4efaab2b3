"""Components: built from their settings, of classes that a configuration may name."""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sa.config.error import UsageError, invalid, typed
from sa.config.settings import Settings

ROOMS = ("dataset", "model", "quantizer", "estimator", "analysis")
_COMPONENT = re.compile(rf"sa\.(?:{'|'.join(ROOMS)})\.[a-z][a-z0-9_]*\.[A-Z]\w*")
_OTHERS = (
    "sa.types.Slots",
    "sa.tracking.wandb.Wandb",
    "sa.training.schedule.Annealed",
    "sa.training.schedule.StepDecay",
    "sa.training.average.Average",
    "sa.training.muon.Muon",
)

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
        recipe: what else a training does: schedule, average, clipping, goals.
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
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(
            f"{key}={typed(node)}: expected the name of an option; --help {key} lists them"
        )
    if why := _NO_STEP.get(str(node["_target_"])):
        name = str(node["_target_"]).rpartition(".")[2]
        raise UsageError(f"{key}={name}: {why}; take another, e.g. optimizer=adam")
    try:
        made = instantiate(dict(node), _convert_="all")
        if key == "optimizer":
            import torch

            made([torch.zeros(1, requires_grad=True)])  # torch checks ranges at construction
    except InstantiationException as error:
        inner = error.__cause__ or error
        at = re.search(r"full_key: ?(\S+)", str(error))
        path = f"{key}.{at.group(1)}" if at else key
        raise UsageError(invalid(path, node, inner)) from error
    except (ValueError, TypeError) as error:
        raise UsageError(invalid(key, node, error)) from error
    for name, value in node.items():  # pydantic takes true for 1
        got = getattr(made, name, value)  # a setting is known by its name alone
        if isinstance(value, bool) and not isinstance(got, bool):
            raise UsageError(f"{key}.{name}={typed(value)}: expected a number")
    return made


def allowed(key: str, target: Any) -> type:
    """Return the class that a ``_target_`` names.

    Raises:
        UsageError: it is neither a component of sa nor an optimizer of torch.

    """
    if isinstance(target, str):
        if _COMPONENT.fullmatch(target) or target in _OTHERS:
            module, _, name = target.rpartition(".")
            return _load(key, module, name)
        if re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
            found = _load(key, "torch.optim", target.rpartition(".")[2])
            if issubclass(found, importlib.import_module("torch").optim.Optimizer):
                return found
    raise UsageError(
        f"{key}={target}: refused; a configuration may only name components of sa, as "
        f"sa.{{{','.join(ROOMS)}}}.FILE.CLASS, and optimizers, as torch.optim.CLASS"
    )


@cache
def _load(key: str, module: str, name: str) -> type:
    """Return a class of a module; UsageError if the module does not define such a class."""
    try:
        found = getattr(importlib.import_module(module), name)  # a class by its name in a file
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}={module}.{name}: there is no such class ({error})") from error
    if not isinstance(found, type) or (module.startswith("sa.") and found.__module__ != module):
        raise UsageError(
            f"{key}={module}.{name}: refused; name a class by the file that defines it"
        )
    return found
