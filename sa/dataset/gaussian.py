"""Standard normal inputs without targets: the task labels them with a target network."""

from typing import Annotated

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Gaussian:
    """``n`` rows x ~ N(0, I) of length ``dim``, and as many held out (BinaryDuo's setting).

    Targets have no columns: the task fills them from a target network of the model's shape.

    Args:
        dim: numbers of a row.
        n: training rows, and as many held out.

    """

    dim: Annotated[int, Gt(0)] = 3
    n: Annotated[int, Gt(0)] = 16384

    @property
    def shape(self) -> tuple[int, ...]:
        """(dim,)."""
        return (self.dim,)

    @property
    def classes(self) -> None:
        """Targets are numbers."""
        return None

    @property
    def rows(self) -> int:
        """The ``n`` that was asked for."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Draw both splits, (n, dim) each, float64."""
        train, test = (
            torch.randn(self.n, self.dim, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        empty = torch.empty(self.n, 0, dtype=torch.float64)
        return Splits(Batch(train, empty), Batch(test, empty))
