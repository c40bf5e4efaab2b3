"""What a network is made of: what couples its rows, what is quantized, how it can be cut."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from sa.flips import chain
from sa.network import reading
from sa.network.network import Network
from sa.network.structure import Cut, Structure
from sa.objective.criterion import CRITERIA
from sa.types import Params


def describe(
    network: nn.Module, frozen: Params, kind: str, batchnorm: str, rows: Tensor | None = None
) -> Structure:
    """What estimators may need to know of a network with a loss of this kind (mse, ce, value).

    rows: a few inputs, with which a network that is no `Network` is read; None: it is not read.
    """
    modules = list(network.modules())
    base = Structure(
        stochastic=any(getattr(getattr(m, "quantize", None), "stochastic", False) for m in modules),
        quantized=quantized(network),
        gradients=any(getattr(m, "gradient", None) is not None for m in modules),
        criterion=CRITERIA[kind],
    )
    try:
        base = replace(base, units=network.units(), bound=None)  # type: ignore[operator]
    except AttributeError:
        base = replace(base, bound=f"{type(network).__name__} is no chain of layers")
    except ValueError as error:
        base = replace(base, bound=str(error))
    norms = [k for k, m in network.named_modules() if isinstance(m, _BatchNorm)]
    if norms and batchnorm == "batch":
        why = f"layer '{norms[0]}' (BatchNorm) normalises by the batch, which couples its rows"
        return replace(base, obstacle=f"{why}; set batchnorm=running")
    seen = replace(
        base,
        frozen=frozen,
        statistics=dict(network.named_buffers()),
        quadratic=kind == "mse",
    )
    if rows is not None and kind != "value" and not isinstance(network, Network):
        moving = [k for k, _ in network.named_parameters() if k not in frozen]
        found = reading.read(network, rows, moving)
        return replace(seen, links=found.links, cuts=[*found.cuts.values()], obstacle=found.why)
    try:
        links = network.links()  # type: ignore[operator]
        obstacle = chain.obstacle(links)
    except (AttributeError, ValueError) as error:
        links, obstacle = (), str(error)
    if obstacle is None:
        return replace(seen, links=links, obstacle=None)
    try:
        return replace(seen, cuts=_cuts(network, frozen), obstacle=obstacle)
    except (AttributeError, ValueError) as error:
        return replace(base, obstacle=f"{obstacle}; and {error}")


def _cuts(network: nn.Module, frozen: Params) -> list[Cut]:
    """The network cut at each kernel, where nothing else moves; ValueError where it cannot be."""
    who, other = coupling(network, "running")
    if who:
        raise ValueError(f"{who} couples its rows; set {other}")
    moving = [k for k, _ in network.named_parameters() if k not in frozen]
    return [network.cut(k) for k in moving]  # type: ignore[operator]


def coupling(network: nn.Module, batchnorm: str) -> tuple[str, str]:
    """Who makes a row's loss depend on the other rows, '' if nobody, and what does not."""
    if batchnorm == "batch" and any(isinstance(m, _BatchNorm) for m in network.modules()):
        return "BatchNorm", "batchnorm=running"
    for m in network.modules():
        if getattr(m, "slot", None) == "weight":  # of no row
            continue
        for slot in ("quantize", "gradient"):
            q = getattr(m, slot, None)
            if getattr(q, "coupled", False):
                q = getattr(q, "spec", q)
                rows = "train=fixed" if hasattr(q, "train") else "granularity=sample"
                return type(q).__name__, rows if slot == "quantize" else f"quantizer/{slot}=none"
    return "", ""


def quantized(network: nn.Module) -> dict[str, str]:
    """``layer.slot`` -> how it is quantized, of what is not in full precision."""
    found = {}
    for name, m in network.named_modules():
        if hasattr(m, "slot"):
            for slot, attribute in ((m.slot, "quantize"), ("gradient", "gradient")):
                q = getattr(m, attribute, None)
                if q is not None and not getattr(q, "identity", False):
                    found[f"{name}.{slot}"] = repr(getattr(q, "spec", q))
    return found


def latent_weights(network: nn.Module) -> list[str]:
    """The weights that a quantizer stands before, by name."""
    layers = [(k, m) for k, m in network.named_modules() if hasattr(m, "weight")]
    found = [(k, getattr(m, "quantize", None)) for k, m in layers]
    return [f"{k}.weight" for k, q in found if q and not getattr(q, "identity", False)]


@torch.no_grad()
def row_width(network: nn.Module, row: Tensor) -> int:
    """Numbers one row keeps alive: outputs and a convolution's patches, by running one row."""
    total = [row.numel()]

    def count(module: nn.Module, args: object, out: Any) -> None:
        total.extend(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 4:
            total.append(weight[0].numel() * out[0, 0].numel())

    leaves = [m for m in network.modules() if hasattr(m, "quantize") or not list(m.children())]
    hooks = [m.register_forward_hook(count) for m in leaves]
    network(row)
    for h in hooks:
        h.remove()
    return sum(total)
