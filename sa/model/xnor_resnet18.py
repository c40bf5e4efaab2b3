"""XNOR-ResNet-18 (Rastegari et al., ECCV 2016), as thin as one likes, for small images too."""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Activation, Conv, Linear, Residual, batchnorm
from sa.network.network import Network
from sa.types import STRICT, Slots

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class XnorResnet18:
    """Stem, four stages of two blocks of widths c, 2c, 4c and 8c, BatchNorm, mean, a Linear head.

    c = init_channels. A block is twice [BatchNorm, activation, quantized 3x3 Conv] with shortcuts
    as ``block`` says; stages 2 to 4 begin with stride 2, and a 1x1 Conv and BatchNorm in the
    shortcut. Stem, shortcuts and head keep full precision; only the head has a bias. The quantized
    layers are numbers 1 to 16.

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the group
            quantizer.
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        init_channels: c, the width of the first stage.
        outputs: outputs, one a class.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, 7x7 with stride 2 and a max pooling;
            then BatchNorm and ReLU.
        block: where the shortcuts go: ``xnor`` around both convolutions of a block, ``bireal``
            around each (Liu et al., ECCV 2018).

    """

    quantizer: Slots
    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    init_channels: Positive = 8
    outputs: Positive = 10
    stem: Literal["cifar", "imagenet"] = "cifar"
    block: Literal["xnor", "bireal"] = "xnor"

    def build(self, generator: torch.Generator) -> Network:
        """The network; layers are named conv, norm, act, block1, ..., mean, flat, head."""
        slots = self.quantizer

        def unit(inputs: int, outputs: int, stride: int) -> list[tuple[str, nn.Module]]:
            return [
                ("norm", batchnorm(inputs)),
                ("act", Activation(slots.activation, slots.gradient)),
                ("conv", Conv(inputs, outputs, 3, generator, slots.weight, stride)),
            ]

        width = self.init_channels
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.stem == "cifar":
            layers["conv"] = Conv(self.shape[0], width, 3, generator)
        else:
            layers["conv"] = Conv(self.shape[0], width, 7, generator, stride=2)
        layers["norm"], layers["act"] = batchnorm(width), nn.ReLU()
        if self.stem == "imagenet":
            layers["pool"] = nn.MaxPool2d(3, 2, 1)
        for i in range(8):
            channels = self.init_channels * 2 ** (i // 2)
            new = channels > width
            first = unit(width, channels, 2 if new else 1)
            second = unit(channels, channels, 1)
            shortcut = None
            if new:
                down = Conv(width, channels, 1, generator, stride=2)
                shortcut = nn.Sequential(OrderedDict(conv=down, norm=batchnorm(channels)))
            layers[f"block{i + 1}"] = self._join(first, second, shortcut)
            width = channels
        layers["norm_last"], layers["act_last"] = batchnorm(width), nn.ReLU()
        layers["mean"], layers["flat"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        layers["head"] = Linear(width, self.outputs, generator)
        return Network(layers)

    def _join(
        self,
        first: list[tuple[str, nn.Module]],
        second: list[tuple[str, nn.Module]],
        shortcut: nn.Module | None,
    ) -> nn.Module:
        """A block: one sum of two units, or two sums of one."""
        one, two = ([(f"{k}{i}", m) for k, m in u] for i, u in ((1, first), (2, second)))
        if self.block == "xnor":
            return Residual(nn.Sequential(OrderedDict(one + two)), shortcut)
        sums = [
            Residual(nn.Sequential(OrderedDict(one)), shortcut),
            Residual(nn.Sequential(OrderedDict(two))),
        ]
        return nn.Sequential(*sums)
