"""Quantize a network that was built without quantizers, by the names of its layers."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from sa import surrogate
from sa.model._layers import Activation, made
from sa.types import Quantizer


@dataclass(frozen=True)
class Rule:
    """What the layers whose name matches ``pattern`` quantize with; None leaves a slot as it is.

    weight: their weights. activation: their outputs. gradient: what is back-propagated to those.
    """

    pattern: str
    weight: Quantizer | None = None
    activation: Quantizer | None = None
    gradient: Quantizer | None = None


class _Weight(nn.Module):
    slot = "weight"

    def __init__(self, quantize: Quantizer, like: Tensor):
        super().__init__()
        self.quantize = made(quantize, like)

    def forward(self, w: Tensor) -> Tensor:
        return surrogate.weights(self.quantize, w)


def apply_quantizers(network: nn.Module, rules: Iterable[Rule]) -> nn.Module:
    """Patch the network in place, and return it; of several rules for a slot, the last one holds.

    So ``Rule("*", Uniform(4))`` then ``Rule("conv1", Uniform(8))`` sets bits layer by layer, and a
    rule with the identity keeps full precision, which the first convolution, the last linear layer
    and 1x1 downsampling usually do. A parameter ``fc.weight`` becomes
    ``fc.parametrizations.weight.original``; load weights before. Patch a network once.

    Raises ValueError for a pattern that matches no layer, naming those there are.
    """
    leaves = {k: m for k, m in network.named_modules() if k and not list(m.children())}
    weighted = {k: m for k, m in leaves.items() if getattr(m, "weight", None) is not None}
    weighted = {k: m for k, m in weighted.items() if m.weight.dim() > 1}
    weights: dict[str, Quantizer] = {}
    outputs: dict[str, dict[str, Quantizer]] = {}
    for rule in rules:
        if rule.weight is not None:
            weights |= dict.fromkeys(_matching(rule.pattern, weighted, "weights"), rule.weight)
        slots = {"activation": rule.activation, "gradient": rule.gradient}
        for slot, quantize in slots.items():
            if quantize is not None:
                for name in _matching(rule.pattern, leaves, "outputs"):
                    outputs.setdefault(name, {})[slot] = quantize
    for name, quantize in weights.items():
        if not getattr(quantize, "identity", False):
            layer = leaves[name]
            mine = _Weight(quantize, layer.weight)
            parametrize.register_parametrization(layer, "weight", mine)
    for name, own in outputs.items():
        layer = leaves[name]
        layer.quantize = Activation(own.get("activation", _same), own.get("gradient"))
        layer.register_forward_hook(_after)
    return network


def _same(x: Tensor) -> Tensor:
    return x


_same.identity = True  # type: ignore[attr-defined]


def _after(layer: nn.Module, args: object, out: Tensor) -> Tensor:
    return layer.quantize(out)  # type: ignore[operator]


def _matching(pattern: str, layers: Iterable[str], what: str) -> list[str]:
    hits = fnmatch.filter(layers, pattern)
    if not hits:
        raise ValueError(
            f"no layer with {what} matches '{pattern}'; there are: {', '.join(layers) or 'none'}"
        )
    return hits
