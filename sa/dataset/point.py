"""One empty row, for models that are a loss themselves and need no data."""

import torch
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Point:
    """One row without inputs; the held-out row is the same."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (0,)."""
        return (0,)

    @property
    def classes(self) -> None:
        """None: there are no targets."""
        return None

    @property
    def rows(self) -> int:
        """The number of training rows, 1."""
        return 1

    def load(self, generator: torch.Generator) -> Splits:
        """Return the row for both splits: inputs (1, 0), targets (1, 0)."""
        row = torch.zeros(1, 0, dtype=torch.float64)
        return Splits(Batch(row, row), Batch(row, row))
