"""ResNets of 6n + 2 layers for CIFAR (He et al., CVPR 2016), as in Cohen et al. (ICLR 2021)."""

from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sa.network.layers import Conv, Linear, Residual, batchnorm, he
from sa.network.network import Network
from sa.types import STRICT

Positive = Annotated[int, Gt(0)]


class Shortcut(nn.Module):
    """A shortcut (n, c, h, w) -> (n, 2 c, ...): every second pixel, BatchNorm, c channels of 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = batchnorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 2 c, h / 2, w / 2), rounded up."""
        y: Tensor = self.norm(x[:, :, ::2, ::2])
        return torch.cat((y, torch.zeros_like(y)), 1)


@dataclass(frozen=True, config=STRICT)
class ResNet:
    """A network of a convolution, three stages of n basic blocks, the mean and a Linear head.

    The depth is 6n + 2: 20, 32, 44 and 56 are those of He et al. The widths of the stages are 16,
    32 and 64. A block is ReLU(x + BN(conv(ReLU(BN(conv(x)))))).
    Its convolutions are 3x3 and have no bias. The first block of stages 2 and 3 has stride 2, and a
    `Shortcut` instead of x. The last BatchNorm of a block starts at gain 0, so the block starts as
    the identity (Goyal et al. 2017). Convolutions start at N(0, 2/(9 o)), the head at torch's
    default.

    Args:
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        outputs: number of outputs, one for each class.
        depth: number of convolutions and Linear layers, 8, 14, 20, ...

    """

    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    outputs: Positive = 10
    depth: Annotated[int, Ge(8)] = 32

    @model_validator(mode="after")
    def _whole(self) -> "ResNet":
        """Raise ValueError if the stages would have unequal numbers of blocks."""
        if self.depth % 6 != 2:
            raise ValueError(
                f"depth={self.depth}: three stages of n blocks have a depth of 6n + 2; take 20, "
                "32, 44, 56, ..."
            )
        return self

    def build(self, generator: torch.Generator) -> Network:
        """Return the network, of layers conv, norm, act, block1, act1, ..., mean, flat, head."""

        def conv(inputs: int, outputs: int, stride: int = 1) -> Conv:
            made = Conv(inputs, outputs, 3, generator, stride=stride)
            made.weight = he((outputs, inputs, 3, 3), generator)
            return made

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = conv(self.shape[0], 16)
        layers["norm"], layers["act"] = batchnorm(16), nn.ReLU()
        width, blocks = 16, (self.depth - 2) // 6
        for i in range(3 * blocks):
            channels = 16 * 2 ** (i // blocks)
            new = channels > width
            body = nn.Sequential(
                OrderedDict(
                    conv1=conv(width, channels, 2 if new else 1),
                    norm1=batchnorm(channels),
                    act=nn.ReLU(),
                    conv2=conv(channels, channels),
                    norm2=batchnorm(channels),
                )
            )
            nn.init.zeros_(body.norm2.weight)  # type: ignore[union-attr, arg-type]
            layers[f"block{i + 1}"] = Residual(body, Shortcut(width) if new else None)
            layers[f"act{i + 1}"] = nn.ReLU()
            width = channels
        layers["mean"], layers["flat"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        layers["head"] = Linear(width, self.outputs, generator, spread=True)
        return Network(layers)
