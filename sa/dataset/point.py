"""No data at all: one empty row, for models that are a loss themselves."""

import torch
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Point:
    """One row without inputs; what is held out is the same: there is nothing to sample."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(0,)."""
        return (0,)

    @property
    def classes(self) -> None:
        """Nothing is predicted."""
        return None

    @property
    def rows(self) -> int:
        """One."""
        return 1

    def load(self, generator: torch.Generator) -> Splits:
        """The row, twice: inputs (1, 0), targets (1, 0)."""
        row = torch.zeros(1, 0, dtype=torch.float64)
        return Splits(Batch(row, row), Batch(row, row))
