"""Whitened inputs and a random linear map of them: for deep linear networks (Cohen et al. 2021)."""

from typing import Annotated

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Linear:
    """y = A x with A (dim, dim) of N(0, 1) entries, and X'X = n I over the ``n`` >= dim rows.

    Held out: n rows x ~ N(0, I) under the same A.

    Args:
        dim: numbers of a row, and of a target.
        n: training rows, and as many held out; at least dim.

    """

    dim: Annotated[int, Gt(0)] = 50
    n: Annotated[int, Gt(0)] = 50

    @model_validator(mode="after")
    def _fits(self) -> "Linear":
        if self.n < self.dim:
            raise ValueError(f"n={self.n}: {self.dim} orthogonal columns need as many rows")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """(dim,)."""
        return (self.dim,)

    @property
    def classes(self) -> None:
        """Targets are numbers."""
        return None

    @property
    def outputs(self) -> int:
        """As many as inputs."""
        return self.dim

    @property
    def rows(self) -> int:
        """The ``n`` that was asked for."""
        return self.n

    def load(self, generator: torch.Generator) -> Splits:
        """Inputs (n, dim) and targets (n, dim)."""
        x, test, a = (
            torch.randn(rows, self.dim, generator=generator, dtype=torch.float64)
            for rows in (self.n, self.n, self.dim)
        )
        x = torch.linalg.qr(x).Q * self.n**0.5
        return Splits(Batch(x, x @ a.T), Batch(test, test @ a.T))
