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
    """y = T_k(x), T_k(cos t) = cos(kt), at ``n`` even points of [-1, 1]; tested between them.

    Args:
        degree: k.
        n: training points.

    """

    degree: Annotated[int, Ge(0)] = 5
    n: Annotated[int, Ge(2)] = 20

    @property
    def shape(self) -> tuple[int, ...]:
        """(1,)."""
        return (1,)

    @property
    def classes(self) -> None:
        """Targets are numbers."""
        return None

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    @property
    def rows(self) -> int:
        """The ``n`` that was asked for."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Inputs (n, 1) and targets (n, 1); the generator is not used."""
        return sampled(self._value, -1.0, 1.0, self.n)

    def _value(self, x: Tensor) -> Tensor:
        before, now = torch.ones_like(x), x  # T_0, T_1
        for _ in range(self.degree):
            before, now = now, 2 * x * now - before
        return before
