"""VGG-11 to VGG-19 for CIFAR (Simonyan & Zisserman 2015), without dropout, as in Cohen (2021)."""

from collections import OrderedDict
from itertools import accumulate
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
WIDTHS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Number of convolutions of each width, by depth (configurations A, B, D and E)."""


@dataclass(frozen=True, config=STRICT)
class VGG:
    """A network of depth - 3 stages [3x3 Conv, norm, ReLU] and three Linear layers.

    The last stage of each width ends in 2x2 max pooling. The Linear layers have widths 512, 512 and
    outputs.
    Convolutions start at N(0, 2/(9 o)) with biases 0, and the other layers at torch's default.

    Args:
        shape: (channels, height, width) of one input, at least 32x32; `model.shape=null` takes it
            from the dataset.
        outputs: number of outputs, one for each class.
        norm: ``none``, or ``batch`` for BatchNorm after each convolution.
        depth: number of convolutions and Linear layers: 11, 13, 16 or 19.

    """

    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    outputs: Positive = 10
    norm: Literal["none", "batch"] = "none"
    depth: Literal[11, 13, 16, 19] = 11

    @model_validator(mode="after")
    def _fits(self) -> "VGG":
        """Raise ValueError if the images are smaller than 32x32."""
        if min(self.shape[1:]) < 32:
            raise ValueError(
                f"five poolings halve images of {self.shape[1]}x{self.shape[2]} below one pixel; "
                "use images of at least 32x32 (dataset.size=32 resizes digits and pads "
                "Fashion-MNIST)"
            )
        return self

    def build(self, generator: torch.Generator) -> Network:
        """Return the network, of layers conv1, norm1, act1, pool1, ..., flat, fc1, ..., head."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, area = self.shape[0], (self.shape[1] // 32) * (self.shape[2] // 32)
        convs = [w for w, n in zip(WIDTHS, STAGES[self.depth], strict=True) for _ in range(n)]
        pooled = set(accumulate(STAGES[self.depth]))
        for i, channels in enumerate(convs, 1):
            conv = Conv(width, channels, 3, generator, bias=True)
            conv.weight = he((channels, width, 3, 3), generator)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers[f"conv{i}"] = conv
            if self.norm == "batch":
                layers[f"norm{i}"] = batchnorm(channels)
            layers[f"act{i}"] = nn.ReLU()
            if i in pooled:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            width = channels
        layers["flat"] = nn.Flatten()
        for i in (1, 2):
            layers[f"fc{i}"] = Linear(512 * (area if i == 1 else 1), 512, generator, spread=True)
            layers[f"relu{i}"] = nn.ReLU()
        layers["head"] = Linear(512, self.outputs, generator, spread=True)
        return Network(layers)
