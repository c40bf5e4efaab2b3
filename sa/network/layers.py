"""The layers models are built of: affine maps with quantized weights, steps, and chains of both."""

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
    """Torch's default start: uniform in +-1/sqrt(fan_in), float64, from the generator alone."""
    return _spread(shape, math.prod(shape[1:]), generator)


def _spread(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    return nn.Parameter((2 * draw - 1) / math.sqrt(fan_in))


def he(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """He's start of a convolution (o, i, k, k): N(0, 2/(k^2 o)), its fan-out (He et al. 2015)."""
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
        slot: what it quantizes: ``weight`` or ``activation``.
        quantize: the quantizer; None keeps full precision.

    """

    slot: ClassVar[str]
    quantize: Quantizer | None


class Affine(QuantizedLayer):
    """An affine map whose weights are quantized: `Linear` and `Conv`.

    Attributes:
        weight: (out, ...), before its quantizer.
        bias: (out,), or None.
        source: the activation that its inputs come from, if there is one; in a tuple, so that it
            is no part of this layer.

    """

    slot = "weight"
    weight: nn.Parameter
    bias: nn.Parameter | None
    source: "tuple[Activation, ...]"


class Linear(Affine):
    """y = x q(W)' + b: (n, inputs) -> (n, outputs); quantize None keeps full precision.

    Scales of q(W), and the step size of x behind the activation ``source``, come after the product.
    spread: biases start uniform in +-1/sqrt(inputs), as torch's do, instead of at 0.
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
        """Apply the map."""
        if not isinstance(self.quantize, codes.Coder):
            return F.linear(x, _used(self), self.bias)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        return codes.linear(x, terms, self.bias, step_size(self.source))


class Conv(Affine):
    """A square convolution, padded: (n, c, h, w) -> (n, o, h / stride, w / stride), rounded up.

    bias: there is one, and it starts uniform like the weights. Scales come after the product, as in
    Linear.
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
        """Apply the convolution."""
        if not isinstance(self.quantize, codes.Coder):
            return F.conv2d(x, _used(self), self.bias, self.stride, self.padding)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        size = step_size(self.source)
        return codes.conv2d(x, terms, self.bias, self.stride, self.padding, size)


def _used(layer: Affine) -> Tensor:
    """The weights a layer multiplies by, where they are no codes."""
    return surrogate.weights(layer.quantize, layer.weight) if layer.quantize else layer.weight


def batchnorm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm of maps (n, channels, h, w) (Ioffe & Szegedy 2015): gain 1, shift 0, float64."""
    return nn.BatchNorm2d(channels, dtype=torch.float64)


class Residual(nn.Module):
    """y = body(x) + shortcut(x): (n, c, h, w) -> (n, o, h', w') (He et al. 2016)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply both ways and add."""
        return self.body(x) + self.shortcut(x)


class Activation(QuantizedLayer):
    """The activation quantizer as a layer, and the quantizer of the gradient that reaches it."""

    slot = "activation"
    quantize: Quantizer

    def __init__(self, quantize: Quantizer, gradient: Quantizer | None = None):
        super().__init__()
        self.quantize = for_layer(quantize)
        self.gradient = None if traits(gradient).identity else gradient
        if gradient is not None and for_layer(gradient) is not gradient:
            raise ValueError(
                f"quantizer.gradient={gradient}: what is back-propagated has no stored range and "
                "no parameters; set train=auto and eval=auto"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        y = self.quantize(x)
        return y if self.gradient is None else surrogate.back(y, self.gradient, self)


def step_size(source: Sequence[Activation]) -> Tensor | float | None:
    """Return the number that the results of an activation are multiples of; None: of none."""
    for activation in source:
        quantize = activation.quantize
        if isinstance(quantize, codes.Stepped):
            return quantize.step_size()
    return None


def connect(row: nn.Sequential) -> None:
    """Set the ``source`` of every affine map that comes behind an activation.

    Flattening and maxima may stand between.
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
