"""The layers models are built of: affine maps with quantized weights, steps, and chains of both."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa import codes, surrogate
from sa.types import Cut, Link, Norm, Quantizer, Units


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


def made(quantize: Quantizer, like: Tensor | None = None) -> Quantizer:
    """The quantizer of one layer: what it builds for it, where it keeps something per layer."""
    return quantize.build(like) if hasattr(quantize, "build") else quantize


class Linear(nn.Module):
    """y = x q(W)' + b: (n, inputs) -> (n, outputs); quantize None keeps full precision.

    Scales of q(W), and the step size of x behind the activation ``source``, come after the product.
    spread: biases start uniform in +-1/sqrt(inputs), as torch's do, instead of at 0.
    """

    slot = "weight"

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
        self.quantize = made(quantize, self.weight) if quantize else None
        self.source: tuple[Activation, ...] = ()  # in a tuple: it is no part of this layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map."""
        if not isinstance(self.quantize, codes.Coder):
            return F.linear(x, _used(self), self.bias)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        return codes.linear(x, terms, self.bias, step_size(self.source))


class Conv(nn.Module):
    """A square convolution, padded: (n, c, h, w) -> (n, o, h / stride, w / stride), rounded up.

    bias: there is one, and it starts uniform like the weights. Scales come after the product, as in
    Linear.
    """

    slot = "weight"

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
        self.quantize = made(quantize, self.weight) if quantize else None
        self.source: tuple[Activation, ...] = ()  # in a tuple: it is no part of this layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        if not isinstance(self.quantize, codes.Coder):
            return F.conv2d(x, _used(self), self.bias, self.stride, self.padding)
        terms = surrogate.weights(self.quantize.coded, self.weight)
        size = step_size(self.source)
        return codes.conv2d(x, terms, self.bias, self.stride, self.padding, size)


def _used(layer: Linear | Conv) -> Tensor:
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


class Activation(nn.Module):
    """The activation quantizer as a layer, and the quantizer of the gradient that reaches it."""

    slot = "activation"

    def __init__(self, quantize: Quantizer, gradient: Quantizer | None = None):
        super().__init__()
        self.quantize = made(quantize)
        self.gradient = None if getattr(gradient, "identity", False) else gradient
        if gradient is not None and made(gradient) is not gradient:
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
    """Tell affine maps which activation they come behind; flattening and maxima are no obstacle."""
    source: tuple[Activation, ...] = ()
    for layer in row:
        match layer:
            case Activation():
                source = (layer,)
            case nn.Flatten() | nn.MaxPool2d():
                pass
            case Linear() | Conv():
                layer.source, source = source, ()
            case _:
                source = ()


class Network(nn.Sequential):
    """Layers in a row, which knows whether it is a chain of affine maps and steps.

    And how it is cut open at one convolution (`cut`), whatever is around it.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module]):
        super().__init__(layers)
        for row in self.modules():
            if isinstance(row, nn.Sequential):
                connect(row)

    def cut(self, weight: str) -> Cut:
        """What is before and behind the convolution of this kernel; ValueError where it cannot."""
        from sa.model._cut import cut  # which knows the layers above

        return cut(self, weight)

    def units(self) -> list[Units]:
        """Of each hidden layer, the tensors that its units are in.

        Raises ValueError naming the first layer whose units cannot change places by themselves.
        """
        found: list[Units] = []
        rows: list[str] = []
        for name, layer in self.named_children():
            mine = [f"{name}.{k}" for k, p in [*layer.named_parameters(), *layer.named_buffers()]
                    if p.dim()]  # fmt: skip
            match layer:
                case Linear() | Conv() if set(mine) <= {f"{name}.weight", f"{name}.bias"}:
                    if rows:
                        found.append(Units(tuple(rows), f"{name}.weight"))
                    rows = mine
                case nn.BatchNorm1d() | nn.BatchNorm2d() if rows:
                    rows += mine
                case Linear() | Conv() | Activation() if mine:
                    raise ValueError(f"the quantizer of layer '{name}' keeps numbers of its own")
                case Activation() | nn.Flatten() | nn.AvgPool2d():
                    pass
                case nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
                    pass
                case _ if not isinstance(layer, tuple(SMOOTH.values())):
                    raise ValueError(
                        f"layer '{name}' ({type(layer).__name__}) binds units together"
                    )
        return found

    def links(self) -> list[Link]:
        """The network as affine maps and steps, the view of the exact fast differences.

        Raises ValueError naming the first layer that does not fit.
        """
        for name, layer in self.named_modules():
            if isinstance(layer, Residual):
                raise ValueError(f"block '{name}' adds its input to its output: no chain")
        links: list[Link] = []
        average = False  # whether maps were averaged since the last affine map
        for name, layer in self.named_children():
            open_ = bool(links) and links[-1].step is None  # pooling, norm and step may follow
            match layer:
                case Conv() if layer.stride != 1:
                    raise ValueError(f"layer '{name}' has stride {layer.stride}")
                case Linear() | Conv():
                    quantize = layer.quantize
                    scaled = isinstance(quantize, codes.Rescaled)
                    if scaled or not (quantize is None or getattr(quantize, "identity", False)):
                        raise ValueError(f"the weights of layer '{name}' are quantized")
                    bias = f"{name}.bias" if layer.bias is not None else None
                    padding = layer.padding if isinstance(layer, Conv) else None
                    links.append(Link(f"{name}.weight", bias, None, padding, average=average))
                    average = False
                case nn.AvgPool2d() if open_ and links[-1].norm is None and links[-1].pool == 1:
                    links[-1] = replace(links[-1], pool=layer.kernel_size)  # type: ignore[arg-type]
                case nn.BatchNorm1d() | nn.BatchNorm2d() if open_ and links[-1].norm is None:
                    links[-1] = replace(links[-1], norm=Norm(name, layer.eps))
                case Activation() if open_ and hasattr(layer.quantize, "step"):
                    links[-1] = replace(links[-1], step=layer.quantize.step)
                case nn.AdaptiveAvgPool2d() if links and not open_:
                    average = True
                case nn.Flatten():
                    pass
                case _:
                    raise ValueError(
                        f"layer '{name}' ({type(layer).__name__}) is neither an affine map nor the "
                        "pooling, norm or step after one"
                    )
        return links
