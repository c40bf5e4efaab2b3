"""A Chebyshev polynomial at a few points: the toy regression of Cohen et al. (ICLR 2021)."""

from typing import Annotated

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.dataset._line import sampled
from sa.types import STRICT, Splits


@dataclass(frozen=True, config=STRICT)
class Chebyshev:
    """y = T_k(x), T_k(cos t) = cos(kt), at ``n`` evenly spaced points from -1 to 1.

    The test points are half-way between the training points.

    Args:
        degree: degree k of the polynomial.
        n: number of training points.

    """

    degree: Annotated[int, Ge(0)] = 5
    n: Annotated[int, Ge(2)] = 20

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (1,)."""
        return (1,)

    @property
    def classes(self) -> None:
        """None: the targets are numbers."""
        return None

    @property
    def outputs(self) -> int:
        """How many numbers a target has, 1."""
        return 1

    @property
    def rows(self) -> int:
        """The number of training rows, ``n``."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits: inputs (n, 1), targets (n, 1); the generator is not used."""
        return sampled(self._value, -1.0, 1.0, self.n)

    def _value(self, x: Tensor) -> Tensor:
        """Return T_k(x)."""
        before, now = torch.ones_like(x), x  # T_0, T_1
        for _ in range(self.degree):
            before, now = now, 2 * x * now - before
        return before
