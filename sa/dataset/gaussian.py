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
        fresh: true draws new training rows at every step, ``batch_size`` or n of them, from the
            seed and the number of the step. Evaluations use the same n training rows and the same n
            held-out rows as without it. A step then also takes the time of the drawing and of one
            forward of the target network.

    """

    dim: Annotated[int, Gt(0)] = 3
    n: Annotated[int, Gt(0)] = 16384
    fresh: bool = False

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
        return Splits(*(self.draw(self.n, generator) for _ in range(2)))

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        """Return so many rows, (rows, dim) float64, with targets of no columns."""
        inputs = torch.randn(rows, self.dim, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.empty(rows, 0, dtype=torch.float64))
