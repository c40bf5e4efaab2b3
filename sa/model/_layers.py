"""The layers models are built of: affine maps with quantized weights, steps, and chains of both."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa.types import Link, Quantizer


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Torch's default start: uniform in +-1/sqrt(fan_in), float64, from the generator alone."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    return nn.Parameter((2 * draw - 1) * bound)


class Linear(nn.Module):
    """y = x q(W)' + b: (n, inputs) -> (n, outputs); quantize None keeps full precision."""

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
        self.quantize = quantize

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map."""
        return F.linear(x, self.quantize(self.weight) if self.quantize else self.weight, self.bias)


class Conv(nn.Module):
    """A square convolution without bias, padded to keep the size: (n, c, h, w) -> (n, o, h, w)."""

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
        self.quantize = quantize

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        w = self.quantize(self.weight) if self.quantize else self.weight
        return F.conv2d(x, w, padding=self.padding)


class Activation(nn.Module):
    """The activation quantizer as a layer."""

    def __init__(self, quantize: Quantizer):
        super().__init__()
        self.quantize = quantize

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        return self.quantize(x)


class Network(nn.Sequential):
    """Layers in a row, which knows whether it is a chain of affine maps and steps."""

    def links(self) -> list[Link]:
        """The network as affine maps and steps, the view of the exact fast differences.

        Raises ValueError naming the first layer that does not fit.
        """
        links: list[Link] = []
        for name, layer in self.named_children():
            quantize = getattr(layer, "quantize", None)
            step = getattr(quantize, "step", None)
            if isinstance(layer, nn.Flatten) and not links:
                continue
            if isinstance(layer, Linear):
                if quantize is not None and not getattr(quantize, "identity", False):
                    raise ValueError(f"the weights of layer '{name}' are quantized")
                bias = f"{name}.bias" if layer.bias is not None else None
                links.append(Link(f"{name}.weight", bias, None))
            elif isinstance(layer, Activation) and links and links[-1].step is None and step:
                links[-1] = Link(links[-1].weight, links[-1].bias, step)
            else:
                kind = type(layer).__name__
                raise ValueError(f"layer '{name}' ({kind}) is neither fully connected nor a step")
        return links
