"""XNOR-ResNet-18 (Rastegari et al., ECCV 2016), of any width, also for small images."""

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
    """A network of a stem, four stages of two blocks, BatchNorm, ReLU, the mean and a Linear head.

    The widths of the stages are c, 2c, 4c and 8c, with c = init_channels. A block has two units
    [BatchNorm, activation, quantized 3x3 Conv], and one or two shortcuts (setting ``block``).
    Stages 2 to 4 begin with stride 2; there the shortcut is a 1x1 Conv and BatchNorm. Stem,
    shortcuts and head stay in full precision. Only the head has a bias. The setting ``moving``
    knows the quantized layers by numbers 1 to 16.

    Args:
        quantizer: quantizers of weights, activations and gradients; the choice of the config
            group ``quantizer``.
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        init_channels: c, the width of the first stage.
        outputs: number of outputs, one for each class.
        stem: the layers before BatchNorm and ReLU: ``cifar`` for a 3x3 convolution, ``imagenet``
            for a 7x7 convolution with stride 2, and max pooling after the ReLU.
        block: position of the shortcuts: ``xnor`` has one around both convolutions of a block,
            ``bireal`` one around each convolution (Liu et al., ECCV 2018).

    """

    quantizer: Slots
    shape: tuple[Positive, Positive, Positive] = (3, 32, 32)
    init_channels: Positive = 8
    outputs: Positive = 10
    stem: Literal["cifar", "imagenet"] = "cifar"
    block: Literal["xnor", "bireal"] = "xnor"

    def build(self, generator: torch.Generator) -> Network:
        """Return the network. Its layers are conv, norm, act, block1, ..., mean, flat, head."""
        slots = self.quantizer

        def unit(inputs: int, outputs: int, stride: int) -> list[tuple[str, nn.Module]]:
            """Return the layers of one unit of a block, with their names."""
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
        """Return a block of two units: one sum with both, or two sums with one unit each."""
        one, two = ([(f"{k}{i}", m) for k, m in u] for i, u in ((1, first), (2, second)))
        if self.block == "xnor":
            return Residual(nn.Sequential(OrderedDict(one + two)), shortcut)
        sums = [
            Residual(nn.Sequential(OrderedDict(one)), shortcut),
            Residual(nn.Sequential(OrderedDict(two))),
        ]
        return nn.Sequential(*sums)
