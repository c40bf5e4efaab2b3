"""Points on two rings around the origin."""

import math
from dataclasses import dataclass

import torch

from sa.types import Batch, Splits


@dataclass(frozen=True)
class Rings:
    """Two classes in the plane: radius 1 and radius 2, both with noise.

    Args:
        n: training rows, and as many test rows, > 1.
        noise: standard deviation of the radius, >= 0.

    """

    n: int = 200
    noise: float = 0.1

    shape = (2,)
    classes = 2

    @property
    def rows(self) -> int:
        """Return the number of training rows."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits."""
        return Splits(self._draw(generator), self._draw(generator))

    def _draw(self, generator: torch.Generator) -> Batch:
        label = torch.arange(self.n) % 2
        angle = torch.rand(self.n, generator=generator, dtype=torch.float64) * 2 * math.pi
        noise = torch.randn(self.n, generator=generator, dtype=torch.float64)
        radius = 1 + label + self.noise * noise
        return Batch(torch.stack([radius * angle.cos(), radius * angle.sin()], 1), label)
