"""Quantizes a network that was built without quantizers, by rules for the names of its layers."""

import copy
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sa import surrogate
from sa.network import codes
from sa.network.layers import Activation, QuantizedLayer, step_size
from sa.network.traits import for_layer, traits
from sa.types import Quantizer

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Rule:
    """The quantizers of the layers with a name that matches a pattern.

    Args:
        pattern: a pattern for names of layers, as in `fnmatch`.
        weight: quantizer of their weights; None changes nothing.
        activation: quantizer of their outputs; None changes nothing.
        gradient: quantizer of the gradients of their outputs; None changes nothing.

    """

    pattern: str
    weight: Quantizer | None = None
    activation: Quantizer | None = None
    gradient: Quantizer | None = None


class _Weight(QuantizedLayer):
    """The parametrization that quantizes a layer's weights."""

    slot = "weight"

    def __init__(self, quantize: Quantizer, like: Tensor):
        super().__init__()
        self.quantize: Quantizer = for_layer(quantize, like)
        self.source: tuple[Activation, ...] = ()  # inside a tuple, torch does not register it

    def forward(self, w: Tensor) -> Tensor:
        return surrogate.weights(self.quantize, w)


def apply_quantizers(network: nn.Module, rules: Iterable[Rule]) -> nn.Module:
    """Add quantizers to a network in place, and return it.

    If several rules set one slot of a layer, the last one is used. So ``Rule("*", Uniform(4))`` and
    then ``Rule("conv1", Uniform(8))`` set the bits of each layer, and a rule with the identity
    keeps full precision. The weights of the first convolution, of the last linear layer and of 1x1
    convolutions stay in full precision, as is usual, unless a rule has the full name of the layer.

    The parameter ``fc.weight`` becomes ``fc.parametrizations.weight.original``, so load weights
    before. Call this once for a network.

    Args:
        network: any network.
        rules: the rules, in order.

    Raises:
        ValueError: a pattern matches no layer. The message lists the layers.

    """
    leaves = {k: m for k, m in network.named_modules() if k and not list(m.children())}
    weighted = {k: m for k, m in leaves.items() if _weights(m).dim() > 1}
    weights: dict[str, Quantizer] = {}
    outputs: dict[str, dict[str, Quantizer]] = {}
    kept = _kept(weighted)
    for rule in rules:
        if rule.weight is not None:
            hits = _matching(rule.pattern, weighted, "weights")
            reached = [k for k in hits if k == rule.pattern or k not in kept]
            weights |= dict.fromkeys(reached, rule.weight)
        slots = {"activation": rule.activation, "gradient": rule.gradient}
        for slot, quantize in slots.items():
            if quantize is not None:
                for name in _matching(rule.pattern, leaves, "outputs"):
                    outputs.setdefault(name, {})[slot] = quantize
    for name, quantize in weights.items():
        if not traits(quantize).identity:
            layer = leaves[name]
            mine = _Weight(quantize, layer.weight)
            affine = any(type(layer).forward is base.forward for base in _AFFINE)
            parametrize.register_parametrization(layer, "weight", mine)
            if affine:
                layer.forward = MethodType(_product, layer)
    for name, own in outputs.items():
        layer = leaves[name]
        layer.quantize = Activation(own.get("activation", codes.Same()), own.get("gradient"))
        layer.register_forward_hook(_after)
    for name, row in network.named_modules():
        if isinstance(row, nn.Sequential):
            _connect(row, f"{name}." if name else "", set(outputs))
    return network


def quantize(
    network: nn.Module,
    rules: Mapping[str, Quantizer | Mapping[str, Quantizer]],
    inplace: bool = False,
) -> nn.Module:
    """Return the network with quantized layers. The last rule for a layer is used.

    >>> from sa.quantizer.uniform import Uniform
    >>> net = quantize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), {"0": Uniform(4)})
    >>> len(net[0].weight.unique()) <= 16
    True

    Args:
        network: any network; load its weights before.
        rules: name pattern of layers -> the quantizer of their weights, or ``{"weight": ...,
            "activation": ..., "gradient": ...}``. The first convolution, the last linear layer and
            1x1 convolutions stay in full precision unless a rule names them in full.
        inplace: true changes the network itself; false changes and returns a copy.

    Raises:
        ValueError: a pattern matches no layer, or a slot has another name.

    """
    made = []
    for pattern, what in rules.items():
        slots = dict(what) if isinstance(what, Mapping) else {"weight": what}
        if unknown := sorted(slots.keys() - {"weight", "activation", "gradient"}):
            raise ValueError(
                f"{pattern}: there is no slot '{unknown[0]}'; expected weight, activation, gradient"
            )
        made.append(Rule(pattern, **slots))
    return apply_quantizers(network if inplace else copy.deepcopy(network), made)


def _connect(row: nn.Sequential, name: str, quantized: set[str]) -> None:
    """Set the ``source`` of quantized layers in a row that get a quantized output.

    Args:
        row: the layers.
        name: the name of the row with a dot, or ''.
        quantized: full names of the layers with quantized outputs.

    """
    source: tuple[Activation, ...] = ()
    layers: Iterable[tuple[str, Any]] = row.named_children()
    for key, layer in layers:
        if (mine := _patched(layer)) is not None:
            mine.source = source
        if f"{name}{key}" in quantized:
            source = (layer.quantize,)
        elif not isinstance(layer, nn.Flatten | nn.MaxPool2d):
            source = ()


def _patched(layer: Any) -> _Weight | None:
    """Return the quantizer of a layer's weights, if it is their only parametrization."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    mine = layer.parametrizations.weight
    return mine[0] if len(mine) == 1 and isinstance(mine[0], _Weight) else None


def _product(layer: Any, x: Tensor) -> Tensor:
    """Return the outputs of a quantized affine layer; scales are applied after the product."""
    mine = _patched(layer)
    if mine is None or not isinstance(mine.quantize, codes.Coder):
        return type(layer).forward(layer, x)
    weight = layer.parametrizations.weight.original
    terms = surrogate.weights(mine.quantize.coded, weight)
    size = step_size(mine.source)
    if isinstance(layer, nn.Linear):
        return codes.linear(x, terms, layer.bias, size)
    product = partial(layer._conv_forward, bias=None)
    return codes.products(product, x, terms, layer.bias, size, weight.dim() - 2)


def _weights(layer: nn.Module) -> Tensor:
    """Return a layer's own parameter ``weight``; an empty vector if it has none."""
    return dict(layer.named_parameters(recurse=False)).get("weight", torch.empty(0))


def _kept(layers: dict[str, nn.Module]) -> set[str]:
    """Return the layers that stay in full precision unless a rule has their full name."""
    convs = [k for k, m in layers.items() if isinstance(m, nn.modules.conv._ConvNd)]
    linear = [k for k, m in layers.items() if isinstance(m, nn.Linear)]
    single = [k for k in convs if layers[k].weight[0, 0].numel() == 1]  # type: ignore[index]
    return {*convs[:1], *linear[-1:], *single}


def _after(layer: nn.Module, args: object, out: Tensor) -> Tensor:
    """Return a layer's outputs, quantized: a forward hook."""
    return layer.quantize(out)  # type: ignore[operator]


def _matching(pattern: str, layers: Iterable[str], what: str) -> list[str]:
    """Return the layers that a pattern matches; raise ValueError if there are none."""
    hits = fnmatch.filter(layers, pattern)
    if not hits:
        raise ValueError(
            f"no layer with {what} matches '{pattern}'; there are: {', '.join(layers) or 'none'}"
        )
    return hits
