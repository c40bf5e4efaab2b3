"""BinaryDuo's toy network (Kim et al., ICLR 2020): narrow, bias-free, every hidden layer a step."""

from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Activation, Linear
from sa.network.network import Network
from sa.types import STRICT, Slots


@dataclass(frozen=True, config=STRICT)
class ToyMLP:
    """dim -> dim -> ... -> out, ``hidden`` hidden layers of width ``dim``, linear output, no bias.

    With hidden 3, out 1 it has 3 dim^2 + dim parameters. On data without targets the task builds
    a second network of this shape, the *target*, and the loss is the squared error between them.
    Weights start uniform in +-gain/sqrt(dim); with gain sqrt(3) a layer keeps the scale of its
    inputs, which activations with levels in [0, 1] need. The first and last layers keep
    full-precision weights.

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the group
            quantizer.
        dim: inputs, and the width of every hidden layer.
        hidden: number of hidden layers.
        out: outputs.
        gain: weights start uniform in +-gain/sqrt(dim).

    """

    quantizer: Slots
    dim: Annotated[int, Gt(0)] = 3
    hidden: Annotated[int, Ge(0)] = 3
    out: Annotated[int, Gt(0)] = 1
    gain: Annotated[float, Gt(0)] = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(dim,)."""
        return (self.dim,)

    @property
    def outputs(self) -> int:
        """How many outputs."""
        return self.out

    def build(self, generator: torch.Generator) -> Network:
        """The network; layers are named fc1, act1, ..., head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        slots = self.quantizer
        for i in range(1, self.hidden + 1):
            weight = slots.weight if i > 1 else None
            layers[f"fc{i}"] = Linear(self.dim, self.dim, generator, False, weight)
            layers[f"act{i}"] = Activation(slots.activation, slots.gradient)
        layers["head"] = Linear(self.dim, self.out, generator, False)
        for layer in layers.values():
            if isinstance(layer, Linear):
                layer.weight.data.mul_(self.gain)
        return Network(layers)
