"""The layers that models are built from: affine maps with quantized weights, activations, sums."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa import surrogate
from sa.network import codes
from sa.network.traits import for_layer, traits
from sa.types import Quantizer


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Return weights (out, in, ...) that start as torch's: uniform in +-1/sqrt(fan_in), float64."""
    return _spread(shape, math.prod(shape[1:]), generator)


def _spread(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter that starts uniform in +-1/sqrt(fan_in), float64."""
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    return nn.Parameter((2 * draw - 1) / math.sqrt(fan_in))


def he(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Return a kernel (o, i, k, k) that starts at N(0, 2/(k^2 o)), by fan-out (He et al. 2015)."""
    std = math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
    return nn.Parameter(std * torch.randn(shape, generator=generator, dtype=torch.float64))


SMOOTH: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus,
    "linear": nn.Identity,
}
"""The activations of full-precision networks, by name."""

Smooth = Literal["relu", "elu", "tanh", "hardtanh", "softplus", "linear"]


class QuantizedLayer(nn.Module):
    """A layer with a quantizer.

    Attributes:
        slot: ``weight`` or ``activation``, what the layer quantizes.
        quantize: the quantizer; None for full precision.

    """

    slot: ClassVar[str]
    quantize: Quantizer | None


class Affine(QuantizedLayer):
    """An affine map with quantized weights: `Linear` or `Conv`.

    Attributes:
        weight: (out, ...), before the quantizer.
        bias: (out,), or None.
        source: the activation that gives the inputs, if one does. It is inside a tuple, so that
            torch does not register it as a part of this layer.

    """

    slot = "weight"
    weight: nn.Parameter
    bias: nn.Parameter | None
    source: "tuple[Activation, ...]"


class Linear(Affine):
    """y = x q(W)' + b, from x (n, inputs) to y (n, outputs).

    The scales of q(W), and the step size of the activation ``source``, are applied after the
    product.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        generator: draws the start.
        bias: whether there is a bias.
        quantize: quantizer of the weights; None for full precision.
        spread: true: there is a bias, and it starts uniform in +-1/sqrt(inputs), as in torch;
            false: a bias starts at 0.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        bias: bool = True,
        quantize: Quantizer | None = None,
        spread: bool = False,
    ):
        super().__init__()
        self.weight = uniform((outputs, inputs), generator)
        zero = nn.Parameter(torch.zeros(outputs, dtype=torch.float64)) if bias else None
        self.bias = _spread((outputs,), inputs, generator) if spread else zero
        self.quantize = for_layer(quantize, self.weight) if quantize else None
        self.source = ()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, outputs) of x (n, inputs)."""
        if not isinstance(self.quantize, codes.Coder):
            return F.linear(x, _used(self), self.bias)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        return codes.linear(x, terms, self.bias, step_size(self.source))


class Conv(Affine):
    """A square convolution with zero padding, from (n, c, h, w) to (n, o, h / stride, w / stride).

    The quotients are rounded up. Scales are applied after the product, as in `Linear`.

    Args:
        inputs: c, the number of input channels.
        outputs: o, the number of output channels.
        kernel: side of the kernel, odd.
        generator: draws the start.
        quantize: quantizer of the weights; None for full precision.
        stride: along height and width.
        bias: whether there is a bias, which starts uniform like the weights.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        generator: torch.Generator,
        quantize: Quantizer | None = None,
        stride: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        self.weight = uniform((outputs, inputs, kernel, kernel), generator)
        self.bias = _spread((outputs,), inputs * kernel**2, generator) if bias else None
        self.padding, self.stride = kernel // 2, stride
        self.quantize = for_layer(quantize, self.weight) if quantize else None
        self.source = ()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, o, h', w') of x (n, c, h, w)."""
        if not isinstance(self.quantize, codes.Coder):
            return F.conv2d(x, _used(self), self.bias, self.stride, self.padding)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        size = step_size(self.source)
        return codes.conv2d(x, terms, self.bias, self.stride, self.padding, size)


def _used(layer: Affine) -> Tensor:
    """Return the weights that a layer multiplies by, if its quantizer gives no codes."""
    return surrogate.weights(layer.quantize, layer.weight) if layer.quantize else layer.weight


def batchnorm(channels: int) -> nn.BatchNorm2d:
    """Return BatchNorm of maps (n, channels, h, w), in float64 (Ioffe & Szegedy 2015)."""
    return nn.BatchNorm2d(channels, dtype=torch.float64)


class Residual(nn.Module):
    """The sum of two branches, y = body(x) + shortcut(x) (He et al. 2016).

    Args:
        body: the first branch.
        shortcut: the second branch; None for the identity.

    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the outputs of both branches."""
        return self.body(x) + self.shortcut(x)


class Activation(QuantizedLayer):
    """A layer that quantizes its inputs, and their gradient in a backward.

    Args:
        quantize: quantizer of the inputs.
        gradient: quantizer of dL/dy of the outputs y; None for full precision.

    """

    slot = "activation"
    quantize: Quantizer

    def __init__(self, quantize: Quantizer, gradient: Quantizer | None = None):
        super().__init__()
        self.quantize = for_layer(quantize)
        self.gradient = None if traits(gradient).identity else gradient
        if gradient is not None and for_layer(gradient) is not gradient:
            raise ValueError(
                f"quantizer.gradient={gradient}: a quantizer of gradients has no stored range and "
                "no parameters; set train=auto and eval=auto"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return x, of any shape, quantized."""
        y = self.quantize(x)
        return y if self.gradient is None else surrogate.back(y, self.gradient, self)


def step_size(source: Sequence[Activation]) -> Tensor | float | None:
    """Return the number that all results of an activation are multiples of; None if none is known.

    source: the activation, in a tuple; () if there is none.
    """
    for activation in source:
        quantize = activation.quantize
        if isinstance(quantize, codes.Stepped):
            return quantize.step_size()
    return None


def connect(row: nn.Sequential) -> None:
    """Set the ``source`` of every affine map in a row that gets its inputs from an activation.

    Flattening and max pooling may stand between the two.
    """
    source: tuple[Activation, ...] = ()
    for layer in row:
        match layer:
            case Activation():
                source = (layer,)
            case nn.Flatten() | nn.MaxPool2d():
                pass
            case Affine():
                layer.source, source = source, ()
            case _:
                source = ()
