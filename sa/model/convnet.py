"""Full-precision convolutional networks of any width and depth, as in Cohen et al. (ICLR 2021)."""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import SMOOTH, Conv, Linear, Smooth, batchnorm
from sa.network.network import Network
from sa.types import STRICT

Positive = Annotated[int, Gt(0)]
POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@dataclass(frozen=True, config=STRICT)
class ConvNet:
    """A network of stages [Conv, activation, pool] and a Linear head.

    Weights and biases start uniform in +-1/sqrt(fan_in), torch's default.

    Args:
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        channels: width of the convolution of each stage.
        kernel: side of the convolutions, odd; zero padding keeps height and width.
        outputs: number of outputs, one for each class.
        activation: function after each convolution.
        norm: ``before`` for BatchNorm before the activation, ``after`` for BatchNorm after it, or
            ``none``.
        pooling: kind of the 2x2 pooling, ``max`` or ``average``.
        pooled: numbers of the stages that have pooling; the first stage is 1.

    """

    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    channels: Annotated[tuple[Positive, ...], Len(1)] = (32, 32)
    kernel: Literal[1, 3, 5, 7] = 3
    outputs: Positive = 10
    activation: Smooth = "relu"
    norm: Literal["none", "before", "after"] = "none"
    pooling: Literal["max", "average"] = "max"
    pooled: tuple[Positive, ...] = (1, 2)

    @model_validator(mode="after")
    def _fits(self) -> "ConvNet":
        """Raise ValueError if ``pooled`` names no stage, or if images get below one pixel."""
        if len(set(self.pooled)) < len(self.pooled) or max(self.pooled, default=0) > len(
            self.channels
        ):
            raise ValueError(
                f"pooled={list(self.pooled)}: expected numbers of convolutions, each once, from 1 "
                f"to {len(self.channels)}"
            )
        least = 2 ** len(self.pooled)
        if min(self.shape[1:]) < least:
            raise ValueError(
                f"{len(self.pooled)} poolings halve images of {self.shape[1]}x{self.shape[2]} "
                f"below one pixel; use images of at least {least}x{least} or pool less"
            )
        return self

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are conv1, norm1, act1, pool1, ..., flat, head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, height, breadth = self.shape
        for i, channels in enumerate(self.channels, 1):
            layers[f"conv{i}"] = Conv(width, channels, self.kernel, generator, bias=True)
            if self.norm == "before":
                layers[f"norm{i}"] = batchnorm(channels)
            layers[f"act{i}"] = SMOOTH[self.activation]()
            if self.norm == "after":
                layers[f"norm{i}"] = batchnorm(channels)
            if i in self.pooled:
                layers[f"pool{i}"] = POOLS[self.pooling](2)
                height, breadth = height // 2, breadth // 2
            width = channels
        layers["flat"] = nn.Flatten()
        layers["head"] = Linear(width * height * breadth, self.outputs, generator, spread=True)
        return Network(layers)
