"""A module for a loss that is a formula of a point, used in place of a network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPE = (0,)
"""The shape of one input of a formula, which has no inputs (dataset=point)."""


class Point(nn.Module):
    """A module whose output (n, 1) is a loss of its parameter ``point``, for each of n empty rows.

    Args:
        start: the first value of the point.
        loss: (point, **constants) -> 0-dim.
        constants: buffers of the module.

    """

    def __init__(self, start: Tensor, loss: Callable[..., Tensor], **constants: Tensor):
        super().__init__()
        self.point, self.loss, self.names = nn.Parameter(start), loss, tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss (n, 1), once for each row of x (n, 0)."""
        value = self.loss(self.point, **{k: self.get_buffer(k) for k in self.names})
        return value.expand(len(x), 1)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Return independent N(0, 1) entries, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
