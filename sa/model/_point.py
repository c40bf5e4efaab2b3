"""A loss written down as a formula, in the place of a network: its parameters are the point."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPE = (0,)
"""Of the inputs of a formula: there are none (dataset=point)."""


class Point(nn.Module):
    """``loss(point, **constants)``, 0-dim, as the output (n, 1) of each of n empty rows."""

    def __init__(self, start: Tensor, loss: Callable[..., Tensor], **constants: Tensor):
        super().__init__()
        self.point, self.loss, self.names = nn.Parameter(start), loss, tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """The value, once a row."""
        value = self.loss(self.point, **{k: self.get_buffer(k) for k in self.names})
        return value.expand(len(x), 1)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """N(0, 1) entries, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
