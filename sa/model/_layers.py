"""The layers models are built of: affine maps with quantized weights, steps, and chains of both."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa import surrogate
from sa.types import Link, Norm, Quantizer


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Torch's default start: uniform in +-1/sqrt(fan_in), float64, from the generator alone."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    return nn.Parameter((2 * draw - 1) * bound)


def made(quantize: Quantizer, like: Tensor | None = None) -> Quantizer:
    """The quantizer of one layer: what it builds for it, where it keeps something per layer."""
    return quantize.build(like) if hasattr(quantize, "build") else quantize


class Linear(nn.Module):
    """y = x q(W)' + b: (n, inputs) -> (n, outputs); quantize None keeps full precision."""

    slot = "weight"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        bias: bool = True,
        quantize: Quantizer | None = None,
    ):
        super().__init__()
        self.weight = uniform((outputs, inputs), generator)
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float64)) if bias else None
        self.quantize = made(quantize, self.weight) if quantize else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map."""
        w = surrogate.weights(self.quantize, self.weight) if self.quantize else self.weight
        return F.linear(x, w, self.bias)


class Conv(nn.Module):
    """A square convolution without bias, padded to keep the size: (n, c, h, w) -> (n, o, h, w)."""

    slot = "weight"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        generator: torch.Generator,
        quantize: Quantizer | None = None,
    ):
        super().__init__()
        self.weight = uniform((outputs, inputs, kernel, kernel), generator)
        self.padding = kernel // 2
        self.quantize = made(quantize, self.weight) if quantize else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        w = surrogate.weights(self.quantize, self.weight) if self.quantize else self.weight
        return F.conv2d(x, w, padding=self.padding)


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
        if self.gradient is not None and y.requires_grad:
            y.register_hook(surrogate.hook(self.gradient))
        return y


class Network(nn.Sequential):
    """Layers in a row, which knows whether it is a chain of affine maps and steps."""

    def links(self) -> list[Link]:
        """The network as affine maps and steps, the view of the exact fast differences.

        Raises ValueError naming the first layer that does not fit.
        """
        links: list[Link] = []
        average = False  # whether maps were averaged since the last affine map
        for name, layer in self.named_children():
            open_ = bool(links) and links[-1].step is None  # pooling, norm and step may follow
            match layer:
                case Linear() | Conv():
                    quantize = layer.quantize
                    if quantize is not None and not getattr(quantize, "identity", False):
                        raise ValueError(f"the weights of layer '{name}' are quantized")
                    bias = f"{name}.bias" if getattr(layer, "bias", None) is not None else None
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
