"""Standard normal inputs without targets; a random target network provides the targets."""

from typing import Annotated

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Gaussian:
    """``n`` training rows x ~ N(0, I) and ``n`` held-out rows, as in BinaryDuo (Kim et al. 2020).

    The targets are empty here. They are later set to the outputs of a second network of the same
    model, with random weights.

    Args:
        dim: how many numbers a row has.
        n: number of training rows, and of held-out rows.

    """

    dim: Annotated[int, Gt(0)] = 3
    n: Annotated[int, Gt(0)] = 16384

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (dim,)."""
        return (self.dim,)

    @property
    def classes(self) -> None:
        """None: the targets are numbers."""
        return None

    @property
    def rows(self) -> int:
        """The number of training rows, ``n``."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits, drawn from the generator: inputs (n, dim) float64, no targets."""
        train, test = (
            torch.randn(self.n, self.dim, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        empty = torch.empty(self.n, 0, dtype=torch.float64)
        return Splits(Batch(train, empty), Batch(test, empty))
