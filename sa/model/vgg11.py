"""VGG-11 for CIFAR (Simonyan & Zisserman 2015), without dropout: Cohen et al. (ICLR 2021)."""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Conv, Linear, batchnorm, he
from sa.network.network import Network
from sa.types import STRICT

Positive = Annotated[int, Gt(0)]
CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (1, 2, 4, 6, 8)


@dataclass(frozen=True, config=STRICT)
class VGG11:
    """A network of eight stages [3x3 Conv, norm, ReLU] and three Linear layers.

    Five of the stages end in 2x2 max pooling. The Linear layers have widths 512, 512 and outputs.
    Convolutions start at N(0, 2/(9 o)) with biases 0, and the other layers at torch's default.

    Args:
        shape: (channels, height, width) of one input, at least 32x32; `model.shape=null` takes it
            from the dataset.
        outputs: number of outputs, one for each class.
        norm: ``none``, or ``batch`` for BatchNorm after each convolution.

    """

    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    outputs: Positive = 10
    norm: Literal["none", "batch"] = "none"

    @model_validator(mode="after")
    def _fits(self) -> "VGG11":
        """Raise ValueError if the images are smaller than 32x32."""
        if min(self.shape[1:]) < 32:
            raise ValueError(
                f"five poolings halve images of {self.shape[1]}x{self.shape[2]} below one pixel; "
                "use images of at least 32x32 (dataset.size=32 resizes digits)"
            )
        return self

    def build(self, generator: torch.Generator) -> Network:
        """Return the network, of layers conv1, norm1, act1, pool1, ..., flat, fc1, ..., head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, area = self.shape[0], (self.shape[1] // 32) * (self.shape[2] // 32)
        for i, channels in enumerate(CHANNELS, 1):
            conv = Conv(width, channels, 3, generator, bias=True)
            conv.weight = he((channels, width, 3, 3), generator)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers[f"conv{i}"] = conv
            if self.norm == "batch":
                layers[f"norm{i}"] = batchnorm(channels)
            layers[f"act{i}"] = nn.ReLU()
            if i in POOLED:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            width = channels
        layers["flat"] = nn.Flatten()
        for i in (1, 2):
            layers[f"fc{i}"] = Linear(512 * (area if i == 1 else 1), 512, generator, spread=True)
            layers[f"relu{i}"] = nn.ReLU()
        layers["head"] = Linear(512, self.outputs, generator, spread=True)
        return Network(layers)
