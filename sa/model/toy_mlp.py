"""The toy network of BinaryDuo (Kim et al., ICLR 2020): narrow, without biases."""

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
    """A network of hidden layers [Linear, activation] of one width and a Linear head, no biases.

    With hidden=3 and out=1 it has 3 dim^2 + dim parameters. If the data have no targets, a second
    network of this kind, the *target network*, makes them. The loss is then the squared error
    between the two outputs. Weights start uniform in +-gain/sqrt(dim). With gain sqrt(3) a layer
    keeps the scale of its inputs, which activations with levels in [0, 1] need. The weights of the
    first and the last layer stay in full precision.

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the config
            group ``quantizer``.
        dim: number of inputs, and width of every hidden layer.
        hidden: number of hidden layers.
        out: number of outputs.
        gain: scale of the first weights, which are uniform in +-gain/sqrt(dim).

    """

    quantizer: Slots
    dim: Annotated[int, Gt(0)] = 3
    hidden: Annotated[int, Ge(0)] = 3
    out: Annotated[int, Gt(0)] = 1
    gain: Annotated[float, Gt(0)] = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input, (dim,)."""
        return (self.dim,)

    @property
    def outputs(self) -> int:
        """Return the number of outputs."""
        return self.out

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are fc1, act1, ..., head."""
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
