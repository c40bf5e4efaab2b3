"""The fully connected full-precision networks of Cohen et al. (ICLR 2021)."""

import math
from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import Gt, Len
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import SMOOTH, Linear, Smooth
from sa.network.network import Network
from sa.types import STRICT

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class FC:
    """A network of Flatten, stages [Linear, activation] and a Linear head, in full precision.

    Weights and biases start uniform in +-1/sqrt(fan_in), torch's default.

    Args:
        shape: shape of one input; `model.shape=null` takes it from the dataset.
        hidden: widths of the hidden layers, in order.
        outputs: number of outputs, one for each class.
        activation: function after each hidden layer.

    """

    shape: Annotated[tuple[Positive, ...], Len(1)] = (3, 32, 32)
    hidden: tuple[Positive, ...] = (200, 200)
    outputs: Positive = 10
    activation: Smooth = "tanh"

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are flat, fc1, act1, ..., head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
        width = math.prod(self.shape)
        for i, units in enumerate(self.hidden, 1):
            layers[f"fc{i}"] = Linear(width, units, generator, spread=True)
            layers[f"act{i}"] = SMOOTH[self.activation]()
            width = units
        layers["head"] = Linear(width, self.outputs, generator, spread=True)
        return Network(layers)
