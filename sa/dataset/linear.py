"""Whitened inputs, and targets by a random linear map, for deep linear networks."""

from typing import Annotated

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Linear:
    """y = A x, where A (dim, dim) has N(0, 1) entries, and X'X = n I (Cohen et al., ICLR 2021).

    X has the n training rows. The n held-out rows are x ~ N(0, I) with the same A.

    Args:
        dim: how many numbers a row has, and a target.
        n: number of training rows, and of held-out rows; at least dim.

    """

    dim: Annotated[int, Gt(0)] = 50
    n: Annotated[int, Gt(0)] = 50

    @model_validator(mode="after")
    def _check(self) -> "Linear":
        """Raise ValueError if there are fewer rows than columns."""
        if self.n < self.dim:
            raise ValueError(
                f"n={self.n}: {self.dim} orthogonal columns need as many rows; set n={self.dim} or "
                "more"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (dim,)."""
        return (self.dim,)

    @property
    def classes(self) -> None:
        """None: the targets are numbers."""
        return None

    @property
    def outputs(self) -> int:
        """How many numbers a target has: dim."""
        return self.dim

    @property
    def rows(self) -> int:
        """The number of training rows, ``n``."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits: inputs (n, dim) and targets (n, dim), float64."""
        x, test, a = (
            torch.randn(rows, self.dim, generator=generator, dtype=torch.float64)
            for rows in (self.n, self.n, self.dim)
        )
        x = torch.linalg.qr(x).Q * self.n**0.5
        return Splits(Batch(x, x @ a.T), Batch(test, test @ a.T))
