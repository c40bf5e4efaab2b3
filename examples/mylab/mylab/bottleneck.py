"""A network with one narrow quantized layer."""

from dataclasses import dataclass

import torch
from torch import nn

from sa.network.layers import Activation
from sa.types import Slots


@dataclass(frozen=True)
class Bottleneck:
    """Affine map, quantizer of activations, affine map.

    Args:
        quantizer: quantizers of the network; it uses the one of activations.
        shape: shape of one input, one number.
        width: units of the hidden layer, > 0.
        outputs: outputs, > 0.

    """

    quantizer: Slots
    shape: tuple[int, ...] = (2,)
    width: int = 6
    outputs: int = 2

    def build(self, generator: torch.Generator) -> nn.Module:
        """Return the network; its start is normal, with variance 1/inputs."""
        steps = Activation(self.quantizer.activation, self.quantizer.gradient)
        first, last = nn.Linear(*self.shape, self.width), nn.Linear(self.width, self.outputs)
        network = nn.Sequential(first, steps, last)
        for p in network.parameters():
            inputs = p.shape[-1] if p.dim() > 1 else 1
            drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64) / inputs**0.5
            p.data = drawn
        return network
