"""Puts parameters into groups of an optimizer, by their rate and weight decay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sa.network.traits import LayerQuantizer
from sa.types import Params

Own = dict[str, dict[str, float]]
"""Parameter of a quantizer -> the optimizer settings (lr, weight_decay) that the quantizer sets."""


def own(network: nn.Module) -> Own:
    """Return the optimizer settings that quantizers set for their own parameters, by name."""
    return {
        f"{name}.{k}": module.group
        for name, module in network.named_modules()
        if isinstance(module, LayerQuantizer)
        for k, _ in module.named_parameters(recurse=False)
    }


def groups(params: Params, own: Own) -> list[Tensor] | list[dict[str, Any]]:
    """Return the parameters as an optimizer takes them: quantizers' own in groups of their own."""
    found: dict[str, dict[str, Any]] = {"rest": {"params": []}}
    for name, p in params.items():
        settings = own.get(name)
        key = "rest" if settings is None else repr(settings)
        found.setdefault(key, {"params": [], **(settings or {})})["params"].append(p)
    if len(found) == 1:
        return list(params.values())
    return [g for g in found.values() if g["params"]]


def stepper(
    optimizer: Callable[..., torch.optim.Optimizer],
    params: Params,
    own: Own,
    *,
    stacked: bool = False,
    decay_all: bool = False,
    quantizer_lr: float | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer, with parameters in groups where they differ in rate or in decay.

    A quantizer's settings for its own parameters are kept. Other parameters of quantizers, and
    vectors such as biases, get no weight decay unless ``decay_all``.

    Args:
        optimizer: makes an optimizer from parameters or from groups of them.
        params: the parameters that are trained, by name.
        own: optimizer settings of quantizers' own parameters, as `own` returns them.
        stacked: true if the first axis of every tensor counts networks.
        decay_all: true applies weight decay to biases, norms and quantizers too.
        quantizer_lr: the rate of quantizers' own parameters, as a factor.

    """
    alike, names = optimizer(groups(params, own)), {id(p): k for k, p in params.items()}
    found: dict[tuple[float, float], list[Tensor]] = {}
    same = True
    for group in alike.param_groups:
        rate, decay = group["lr"], group.get("weight_decay", 0)
        for p in group["params"]:
            name = names[id(p)]
            quantizes = ".quantize." in f".{name}"
            vector = p.dim() <= 1 + stacked  # such as a bias
            decays = decay_all or name in own or not (vector or quantizes)
            factor = quantizer_lr if quantizes and "lr" not in own.get(name, {}) else None
            mine = rate * (factor or 1), decay if decays else 0
            same &= mine == (rate, decay)
            found.setdefault(mine, []).append(p)
    if same:
        return alike
    return optimizer(
        [{"params": ps, "lr": lr, "weight_decay": wd} for (lr, wd), ps in found.items()]
    )
