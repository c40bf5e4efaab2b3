"""The function sin(kx)/(kx), for networks of one input and one output."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.dataset._line import sampled
from sa.types import STRICT, Splits


@dataclass(frozen=True, config=STRICT)
class Sinc:
    """y = sin(kx)/(kx), 1 at x = 0, at ``n`` even points from low to high; tested between them.

    Args:
        k: frequency.
        low: first training point.
        high: last training point.
        n: training points.

    """

    k: Annotated[float, Gt(0)] = 5.0
    low: float = -1.0
    high: float = 1.0
    n: Annotated[int, Ge(2)] = 1000

    @model_validator(mode="after")
    def _fits(self) -> "Sinc":
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: expected less than high={self.high}")
        return self

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
        return sampled(self._value, self.low, self.high, self.n)

    def _value(self, x: Tensor) -> Tensor:
        return torch.sinc(self.k / torch.pi * x)  # torch's is sin(pi t)/(pi t), 1 at 0
