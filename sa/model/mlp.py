"""A fully connected network for images or vectors, with quantized hidden layers."""

import math
from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Len
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Activation, Linear
from sa.network.network import Network
from sa.types import STRICT, Slots

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class MLP:
    """A network of Flatten, stages [Linear, norm, activation] and a Linear head.

    Weights start uniform in +-1/sqrt(fan_in).

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the config
            group ``quantizer``.
        shape: shape of one input; `model.shape=null` takes it from the dataset.
        hidden: widths of the hidden layers, in order.
        outputs: number of outputs, one for each class.
        norm: ``none``, or ``batch`` for BatchNorm before the activation.
        every: true quantizes the weights of every layer; false keeps the weights of the first and
            the last layer in full precision.
        spread: true starts biases like the weights; false starts them at 0. With one input and
            biases at 0, all first-layer units step at the same place, 0.

    """

    quantizer: Slots
    shape: Annotated[tuple[Positive, ...], Len(1)] = (1, 8, 8)
    hidden: tuple[Positive, ...] = (128, 128)
    outputs: Positive = 10
    norm: Literal["none", "batch"] = "none"
    every: bool = False
    spread: bool = False

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are flat, fc1, norm1, act1, ..., head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
        width = math.prod(self.shape)
        for i, units in enumerate(self.hidden, 1):
            weight = self.quantizer.weight if self.every or i > 1 else None
            bias = self.norm == "none"
            spread = bias and self.spread
            layers[f"fc{i}"] = Linear(width, units, generator, bias, weight, spread)
            if self.norm == "batch":
                layers[f"norm{i}"] = nn.BatchNorm1d(units, dtype=torch.float64)
            layers[f"act{i}"] = Activation(self.quantizer.activation, self.quantizer.gradient)
            width = units
        weight = self.quantizer.weight if self.every else None
        layers["head"] = Linear(width, self.outputs, generator, True, weight, self.spread)
        return Network(layers)
