"""Ternary activations with a dead zone of a chosen width."""

from dataclasses import dataclass

from torch import Tensor

import sa


@dataclass(frozen=True)
class DeadZone:
    """q(x) = -1 where x < -width, +1 where x >= width, 0 between them.

    Args:
        width: half the width of the zone of zeros, > 0.

    """

    width: float = 0.5

    bits = 2

    @property
    def step(self) -> sa.Step:
        """Return thresholds and levels: with them, exact differences cost a few evaluations."""
        return sa.Step((-self.width, self.width), (-1.0, 0.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized activations, by two steps that an estimator may give a slope."""
        return (sa.sign(x - self.width) + sa.sign(x + self.width)) / 2
