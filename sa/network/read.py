"""Reads the structure of a network: its chain or cuts, its quantizers, what couples its rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from sa.flips import chain
from sa.network import reading
from sa.network.layers import Activation, Affine, QuantizedLayer
from sa.network.network import Network
from sa.network.patch import PatchedWeight, patched
from sa.network.structure import Cut, LayerTrace, Structure
from sa.network.traits import component, traits
from sa.types import Params, Quantizer


def describe(
    network: nn.Module,
    frozen: Params,
    batchnorm: str,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    rows: Tensor | None = None,
) -> Structure:
    """Return the structure of a network and its loss.

    Args:
        network: the network.
        frozen: its parameters that do not move, by name.
        batchnorm: the statistics that BatchNorm uses, ``running`` or ``batch``.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        rows: a few inputs, to trace a network that is no `Network`; None to not trace it.

    """
    layers = [m for m in network.modules() if isinstance(m, QuantizedLayer)]
    base = Structure(
        stochastic=any(traits(m.quantize).stochastic for m in layers),
        quantized=quantized(network),
        gradients=any(isinstance(m, Activation) and m.gradient is not None for m in layers),
        criterion=criterion,
    )
    norms = [k for k, m in network.named_modules() if isinstance(m, _BatchNorm)]
    coupled = ""
    if norms and batchnorm == "batch":
        why = f"layer '{norms[0]}' (BatchNorm) normalises by the batch, which couples its rows"
        coupled = f"{why}; set batchnorm=running"
    whole = replace(
        base,
        frozen=frozen,
        statistics=dict(network.named_buffers()),
        quadratic=quadratic,
    )
    if not isinstance(network, Network) or any(map(patched, network.modules())):
        return _traced(network, base, whole, coupled, rows)
    try:
        whole = replace(whole, units=network.units(), why_not_permutable=None)
    except ValueError as error:
        whole = replace(whole, why_not_permutable=str(error))
    base = replace(base, units=whole.units, why_not_permutable=whole.why_not_permutable)
    if coupled:
        return replace(base, why_not_a_chain=coupled)
    try:
        links = network.links()
        why_not = chain.why_no_fast_differences(links)
    except ValueError as error:
        links, why_not = [], str(error)
    if why_not is None:
        return replace(whole, links=links, why_not_a_chain=None)
    try:
        return replace(whole, cuts=_cuts(network, frozen), why_not_a_chain=why_not)
    except ValueError as error:
        return replace(base, why_not_a_chain=f"{why_not}; and {error}")


def _traced(
    network: nn.Module, base: Structure, whole: Structure, coupled: str, rows: Tensor | None
) -> Structure:
    """Return the structure of a network that is no `Network`, by tracing it.

    Args:
        network: the network.
        base: the structure without parameters, for a network that cannot be traced.
        whole: the structure with parameters and statistics, to which the reading is added.
        coupled: why the rows of a batch are coupled; '' if they are not.
        rows: a few inputs, or None.

    """
    formula = next(network.children(), None) is None
    what = "the loss is a formula" if formula else "the network is a module of its own kind"
    why = f"{what}, not a chain of layers"
    if coupled or rows is None:
        return replace(base, why_not_permutable=why, why_not_a_chain=coupled or why)
    moving = [k for k, _ in network.named_parameters() if k not in whole.frozen]
    found = reading.read(network, rows, moving)
    cuts = [*found.cuts.values()]
    whole = replace(whole, why_not_permutable=why)
    return replace(whole, links=found.links, cuts=cuts, why_not_a_chain=found.why)


def _cuts(network: Network, frozen: Params) -> list[Cut]:
    """Return the network cut open at each kernel that moves.

    Raises:
        ValueError: another parameter moves, or the rows of a batch are coupled.

    """
    who, instead = coupling(network, "running")
    if who:
        raise ValueError(f"{who} couples its rows; set {instead}")
    return [network.cut(k) for k, _ in network.named_parameters() if k not in frozen]


def coupling(network: nn.Module, batchnorm: str) -> tuple[str, str]:
    """Return (the layer type that couples the rows of a batch, the setting that avoids it).

    Both are '' if rows are independent.

    Args:
        network: the network.
        batchnorm: the statistics that BatchNorm uses, ``running`` or ``batch``.

    """
    if batchnorm == "batch" and any(isinstance(m, _BatchNorm) for m in network.modules()):
        return "BatchNorm", "batchnorm=running"
    for m in network.modules():
        if isinstance(m, Activation):
            if (own := traits(m.quantize)).coupled:
                return _kind(m.quantize), own.uncoupled_by
            if m.gradient and traits(m.gradient).coupled:
                return _kind(m.gradient), "quantizer/gradient=none"
    return "", ""


def one_row(network: nn.Module, batchnorm: str, rows: int) -> str:
    """Return why BatchNorm cannot normalise steps of so many rows; '' if it can."""
    norms = [k for k, m in network.named_modules() if isinstance(m, _BatchNorm)]
    if rows > 1 or batchnorm != "batch" or not norms:
        return ""
    return f"one row a step has no spread that layer '{norms[0]}' (BatchNorm) could normalise by"


def _kind(quantize: Quantizer) -> str:
    """Return the name of a quantizer's class."""
    return type(component(quantize)).__name__


def quantized(network: nn.Module) -> dict[str, str]:
    """Return ``layer.slot`` -> its quantizer in words, without slots in full precision."""
    found = {}
    for name, m in network.named_modules():
        if isinstance(m, QuantizedLayer):
            slots = {m.slot: m.quantize}
            if isinstance(m, Activation):
                slots["gradient"] = m.gradient
            layer = name.removesuffix(".quantize")  # of a rule: it stands inside of the layer
            if isinstance(m, PatchedWeight):  # LAYER.parametrizations.WEIGHT.0
                layer, _, weight = name.rpartition(".")[0].rpartition(".parametrizations.")
                slots = {weight: m.quantize}
            for slot, q in slots.items():
                if q and not traits(q).identity:
                    found[f"{layer}.{slot}"] = repr(component(q))
    return found


def latent_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights that are quantized before they are used."""
    return [weight for weight, _, _ in quantized_weights(network)]


def quantized_weights(
    network: nn.Module,
) -> Iterator[tuple[str, str, Affine | PatchedWeight]]:
    """Yield the name of each quantized weight, and the name and module that hold its quantizer."""
    every = dict(network.named_parameters())
    for name, m in network.named_modules():
        if isinstance(m, PatchedWeight):  # NAME.parametrizations.WEIGHT.0
            weight = f"{name.rpartition('.')[0]}.original"
        elif isinstance(m, Affine) and not traits(m.quantize).identity:
            weight = f"{name}.weight"
        else:
            continue
        if weight in every:  # a shared weight has one name
            yield weight, name, m


def weights(layer: nn.Module) -> Tensor | None:
    """Return the weights (out, ...) of an affine map, not quantized; None for other layers."""
    return layer.weight if isinstance(layer, Affine | nn.Linear | _ConvNd) else None


@torch.no_grad()
def row_width(network: nn.Module, row: Tensor) -> int:
    """Return how many numbers a forward holds for one row: outputs and patches of convolutions.

    Args:
        network: the network, which runs once.
        row: one input, (1, ...).

    """
    total = [row.numel()]

    def count(module: nn.Module, args: object, out: Any) -> None:
        total.extend(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
        weight = weights(module)
        if weight is not None and weight.dim() == 4:
            total.append(weight[0].numel() * out[0, 0].numel())

    leaves = [
        m for m in network.modules() if isinstance(m, QuantizedLayer) or not list(m.children())
    ]
    hooks = [m.register_forward_hook(count) for m in leaves]
    network(row)
    for h in hooks:
        h.remove()
    return sum(total)


def layer_trace(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> LayerTrace:
    """Return what a layer did in one forward."""
    own = layer if isinstance(layer, QuantizedLayer) else None
    q = None if own is None or traits(own.quantize).identity else own.quantize
    weight = weights(layer)
    count = sum(p.numel() for p in layer.parameters(recurse=own is not None))
    used = q(weight) if q and weight is not None else weight
    return LayerTrace(name, inputs[0], out, q, weight, used, count)
