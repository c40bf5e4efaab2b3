"""Components made from their settings: only classes that a configuration may name."""

import importlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from sa.config.error import UsageError, invalid, typed

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
"""Optimizers of torch that cannot take the step of one dense gradient, and why."""

_MADE: dict[str, Any] = {}


def make(key: str, node: Any) -> Any:
    """One component, made once a process: components are frozen, and a plan repeats them."""
    name = json.dumps([key, node], sort_keys=True, default=str)
    if name not in _MADE:
        _MADE[name] = _instantiate(key, node)
    return _MADE[name]


def _instantiate(key: str, node: Any) -> Any:
    """Instantiate one component; every problem becomes a UsageError naming the dotted key."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(f"{key}: expected a component (a mapping with _target_), got {node!r}")
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
        got = getattr(made, name, value)
        if isinstance(value, bool) and not isinstance(got, bool):
            raise UsageError(f"{key}.{name}={typed(value)}: expected a number")
    return made


def allowed(key: str, target: Any) -> type:
    """The class a ``_target_`` names, if it is one of ours or an optimizer of torch."""
    if isinstance(target, str):
        if _COMPONENT.fullmatch(target) or target in _OTHERS:
            module, _, name = target.rpartition(".")
            return _load(key, module, name)
        if re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
            found = _load(key, "torch.optim", target.rpartition(".")[2])
            if issubclass(found, importlib.import_module("torch").optim.Optimizer):
                return found
    raise UsageError(
        f"{key}={target}: refused; a configuration may only name classes of sa's rooms "
        f"(sa.{{{','.join(ROOMS)}}}.<file>.<Class>) and optimizers of torch.optim"
    )


@cache
def _load(key: str, module: str, name: str) -> type:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}={module}.{name}: there is no such class ({error})") from error
    if not isinstance(found, type) or (module.startswith("sa.") and found.__module__ != module):
        raise UsageError(f"{key}={module}.{name}: refused; the class is not defined there")
    return found
