"""Quantizers for layers that were built without any: for their weights and their outputs."""

import re
from collections.abc import Iterable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from sa import surrogate
from sa.network import codes
from sa.network.layers import Activation, Affine, QuantizedLayer, step_size
from sa.network.traits import for_layer
from sa.types import Quantizer

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class PatchedWeight(QuantizedLayer):
    """The quantizer of one weight, as a parametrization of its layer.

    Args:
        quantize: the quantizer.
        like: the weight, (out, ...).
        groups: groups of a transposed convolution, whose weight is (in, out / groups, ...); 0 for
            other layers.

    """

    slot = "weight"

    def __init__(self, quantize: Quantizer, like: Tensor, groups: int = 0):
        super().__init__()
        self.groups = groups
        self.quantize: Quantizer = for_layer(quantize, self._turned(like))
        self.source: tuple[Activation, ...] = ()  # a tuple hides it: it is no submodule
        self.to(like.device, like.dtype)

    def forward(self, w: Tensor) -> Tensor:
        """Return the quantized weight, of the same shape."""
        return self._turned(surrogate.weights(self.quantize, self._turned(w)), back=True)

    def _turned(self, w: Tensor, back: bool = False) -> Tensor:
        """Return the weight of a transposed convolution with output channels first, or back."""
        if not self.groups:
            return w
        first, second, *kernel = w.shape
        if back:  # (out, in / groups, ...) -> (in, out / groups, ...)
            parts = w.reshape(self.groups, first // self.groups, second, *kernel)
            return parts.transpose(1, 2).reshape(-1, first // self.groups, *kernel)
        parts = w.reshape(self.groups, first // self.groups, second, *kernel)
        return parts.transpose(1, 2).reshape(-1, first // self.groups, *kernel)


def patch_weight(layer: nn.Module, name: str, mine: PatchedWeight) -> None:
    """Let a layer compute with a quantized weight; its parameter moves to ``parametrizations``."""
    affine = any(type(layer).forward is base.forward for base in _AFFINE)
    parametrize.register_parametrization(layer, name, mine)
    if affine:
        layer.forward = MethodType(_product, layer)
    elif isinstance(layer, nn.RNNBase):
        layer.forward = MethodType(_recurrent, layer)
        layer.flatten_parameters = MethodType(_unflattened, layer)  # type: ignore[method-assign]
        if layer._flat_weights_names:
            layer.weight_names, layer._flat_weights_names = layer._flat_weights_names, []
        layer._flat_weights = []


def unpatched(name: str) -> str:
    """Return the name that a weight has in the network without rules.

    >>> unpatched("fc.parametrizations.weight.original"), unpatched("fc.bias")
    ('fc.weight', 'fc.bias')
    """
    return re.sub(r"\bparametrizations\.(\w+)\.original$", r"\1", name)


def patched_weight(layer: nn.Module, name: str, quantize: Quantizer) -> PatchedWeight:
    """Return the quantizer of a layer's weight, as a module of its own."""
    groups = layer.groups if isinstance(layer, _ConvTransposeNd) else 0
    return PatchedWeight(quantize, dict(layer.named_parameters(recurse=False))[name], groups)


def patch_outputs(layer: nn.Module, quantize: Activation) -> None:
    """Let a layer quantize its outputs."""
    layer.quantize = quantize
    layer.register_forward_hook(quantized_output)


def quantized_output(layer: nn.Module, inputs: object, out: Any) -> Tensor:
    """Return the quantized output of a layer. `patch_outputs` registers this hook."""
    if isinstance(out, tuple | list | dict):
        raise ValueError(
            f"a layer ({type(layer).__name__}) returns a {type(out).__name__}, which no activation "
            "quantizer takes; quantize the outputs of the layer that comes behind it"
        )
    return layer.quantize(out)  # type: ignore[operator]


def patched(layer: nn.Module) -> bool:
    """Return whether a rule has given a layer a quantizer that it was not made for."""
    hooks = layer._forward_hooks.values()
    return isinstance(layer, PatchedWeight) or quantized_output in hooks


def own_quantizer(layer: nn.Module) -> PatchedWeight | None:
    """Return the quantizer that the parameter ``weight`` of a layer goes through alone, if any."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    mine = layer.parametrizations.weight  # type: ignore[union-attr]
    return mine[0] if len(mine) == 1 and isinstance(mine[0], PatchedWeight) else None  # type: ignore


def connect_patched(row: nn.Sequential, name: str, quantized: set[str]) -> None:
    """Give each affine layer in a row the quantizer of its inputs, as ``source``.

    Args:
        row: the layers.
        name: name of the row in the network, with a dot; '' for the network itself.
        quantized: the names of all layers whose outputs a rule quantizes.

    """
    source: tuple[Activation, ...] = ()
    layers: Iterable[tuple[str, Any]] = row.named_children()
    for key, layer in layers:
        mine = layer if isinstance(layer, Affine) else own_quantizer(layer)
        if mine is not None:
            mine.source = source
        if isinstance(layer, Activation):
            source = (layer,)
        elif f"{name}{key}" in quantized:
            source = (layer.quantize,)
        elif not isinstance(layer, nn.Flatten | nn.MaxPool2d):
            source = ()


def _product(layer: Any, x: Tensor) -> Tensor:
    """Apply a patched affine layer; scales of its weights come after the product."""
    mine = own_quantizer(layer)
    if mine is None or not isinstance(mine.quantize, codes.Coder):
        return type(layer).forward(layer, x)
    weight = layer.parametrizations.weight.original
    terms = surrogate.weights(mine.quantize.coded, weight)
    size = step_size(mine.source)
    if isinstance(layer, nn.Linear):
        return codes.linear(x, terms, layer.bias, size)
    product = partial(layer._conv_forward, bias=None)
    return codes.products(product, x, terms, layer.bias, size, weight.dim() - 2)


def _recurrent(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a recurrent layer with its current weights, which it needs as a list."""
    layer._flat_weights_names = layer.weight_names
    layer._init_flat_weights()
    try:
        return type(layer).forward(layer, *args, **kwargs)
    finally:  # a layer that holds quantized weights cannot be copied
        layer._flat_weights_names, layer._flat_weights = [], []


def _unflattened(layer: Any) -> None:
    """Do nothing: cuDNN would pack the weights into one tensor, and quantized weights change."""


@torch.no_grad()
def uses(network: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Run one forward in evaluation mode, and return how often it calls each layer."""
    counts: dict[nn.Module, int] = {}

    def count(layer: nn.Module, *_: object) -> None:
        counts[layer] = counts.get(layer, 0) + 1

    modes = [(m, m.training) for m in network.modules()]
    hooks = [m.register_forward_hook(count) for m in network.modules()]
    try:
        network.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes:
            m.training = training
    return counts
