"""Evenly spaced levels on [0, 1]: DoReFa-Net's k-bit and BinaryDuo's ternary activations."""

from typing import Annotated

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network.structure import Step
from sa.quantizer._grid import Rounding
from sa.types import STRICT

LISTED = 1 << 16
"""The largest number of levels for which `Levels.step` lists all thresholds."""


@dataclass(frozen=True, config=STRICT)
class Levels:
    """q(x) = round((L - 1) clip(x, 0, 1)) / (L - 1), halves up, L = levels.

    L = 2^k is DoReFa-Net's k-bit activation (Zhou et al. 2016), L = 3 BinaryDuo's ternary one (Kim
    et al., ICLR 2020), L = 2 the step 1[x >= 1/2]. With m the surrogate in force, the derivative is
    m(a) where 0 <= x <= 1, and 0 elsewhere; a in [-1, 1) is the distance to the nearest threshold,
    in half steps.

    >>> Levels(3)(torch.tensor([-1.0, 0.2, 0.25, 0.7, 2.0]))
    tensor([0.0000, 0.0000, 0.5000, 0.5000, 1.0000])

    Args:
        levels: L, the number of levels, evenly spaced on [0, 1] with both ends.
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.

    """

    levels: Annotated[int, Ge(2)] = 3
    rounding: Rounding = "nearest"

    @property
    def bits(self) -> int:
        """Bits of one quantized number."""
        return (self.levels - 1).bit_length()

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    @property
    def step(self) -> Step | None:
        """The same function as thresholds and levels; None beyond 65,536 levels."""
        n = self.levels - 1
        if n >= LISTED:
            return None
        return Step(
            tuple((k + 0.5) / n for k in range(n)), tuple(k / n for k in range(self.levels))
        )

    def step_size(self) -> float | None:
        """Return 1/(L - 1); None if it is a power of two, whose multiples are summed exactly."""
        n = self.levels - 1
        return 1 / n if n & (n - 1) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x quantized, any shape, elementwise."""
        inside = (x >= 0) & (x <= 1)  # both ends count as inside: the derivative there is m(a)
        clipped = torch.where(inside, x, x.detach().clamp(0, 1))  # NaN stays NaN
        n = self.levels - 1
        return surrogate.rounded(n * clipped, self.stochastic) / n
