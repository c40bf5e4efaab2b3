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
    """y = sin(kx)/(kx), and 1 at x = 0, at ``n`` evenly spaced points from low to high.

    The test points are half-way between the training points.

    Args:
        k: frequency.
        low: first training point.
        high: last training point.
        n: number of training points.

    """

    k: Annotated[float, Gt(0)] = 5.0
    low: float = -1.0
    high: float = 1.0
    n: Annotated[int, Ge(2)] = 1000

    @model_validator(mode="after")
    def _check(self) -> "Sinc":
        """Raise ValueError if ``low`` is not below ``high``."""
        if self.low >= self.high:
            raise ValueError(
                f"low={self.low}: expected less than high={self.high}; set a smaller low or a "
                "larger high"
            )
        return self

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
        return sampled(self._value, self.low, self.high, self.n)

    def _value(self, x: Tensor) -> Tensor:
        """Return sin(kx)/(kx)."""
        return torch.sinc(self.k / torch.pi * x)  # torch's is sin(pi t)/(pi t), 1 at 0
