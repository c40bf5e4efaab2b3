"""A small convolutional network for images, with quantized inner convolutions."""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Activation, Conv, Linear
from sa.network.network import Network
from sa.types import STRICT, Slots

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class CNN:
    """A network of stages [3x3 Conv, pool, norm, activation] and a Linear head.

    The weights of the first convolution and of the head stay in full precision.

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the config
            group ``quantizer``.
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        channels: width of the convolution of each stage.
        outputs: number of outputs, one for each class.
        pool: ``average`` takes 2x2 means in each stage, which halves height and width; ``none``
            does not pool.
        norm: ``none``, or ``batch`` for BatchNorm between pooling and activation, as in XNOR-Net.
        head: inputs of the head: ``flatten`` for all numbers of the last maps, ``average`` for the
            mean of each map.

    """

    quantizer: Slots
    shape: tuple[Positive, Positive, Positive] = (1, 8, 8)
    channels: Annotated[tuple[Positive, ...], Len(1)] = (16, 32)
    outputs: Positive = 10
    pool: Literal["average", "none"] = "average"
    norm: Literal["none", "batch"] = "batch"
    head: Literal["flatten", "average"] = "flatten"

    @model_validator(mode="after")
    def _fits(self) -> "CNN":
        """Raise ValueError if pooling makes the images smaller than one pixel."""
        least = 2 ** len(self.channels) if self.pool == "average" else 1
        if min(self.shape[1:]) < least:
            raise ValueError(
                f"{len(self.channels)} stages halve images of {self.shape[1]}x{self.shape[2]} "
                f"below one pixel; use images of at least {least}x{least} or fewer channels"
            )
        return self

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are conv1, pool1, norm1, act1, ..., mean, flat, head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, (height, breadth) = self.shape[0], self.shape[1:]
        for i, channels in enumerate(self.channels, 1):
            weight = self.quantizer.weight if i > 1 else None
            layers[f"conv{i}"] = Conv(width, channels, 3, generator, weight)
            if self.pool == "average":
                layers[f"pool{i}"] = nn.AvgPool2d(2)
                height, breadth = height // 2, breadth // 2
            if self.norm == "batch":
                layers[f"norm{i}"] = nn.BatchNorm2d(channels, dtype=torch.float64)
            layers[f"act{i}"] = Activation(self.quantizer.activation, self.quantizer.gradient)
            width = channels
        if self.head == "average":
            layers["mean"] = nn.AdaptiveAvgPool2d(1)
            height = breadth = 1
        layers["flat"] = nn.Flatten()
        layers["head"] = Linear(width * height * breadth, self.outputs, generator)
        return Network(layers)
