"""A quadratic function of the point with a known spectrum, without data."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


def value(w: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
    """Return (w - c)' A (w - c) / 2, 0-dim, for the matrix A (D, D) and the centre c (D,)."""
    return (w - centre) @ matrix @ (w - centre) / 2


@dataclass(frozen=True, config=STRICT)
class Quadratic:
    """A quadratic f(w) = (w - c)' A (w - c) / 2 with known eigenvalues and random eigenvectors.

    The eigenvalues that are not 0 fall geometrically from 1 to 1/condition. c and the start of the
    point are N(0, I). The buffers ``matrix`` and ``centre`` are A and c. The gradient of f equals
    every smoothed gradient of f.

    Args:
        size: number of parameters, the dimension of the point.
        condition: largest eigenvalue of A, divided by the smallest that is not 0.
        rank: number of eigenvalues that are not 0; null for all of them.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Gt(0)] = 8
    condition: Annotated[float, Ge(1)] = 100.0
    rank: Annotated[int, Gt(0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Quadratic":
        """Raise ValueError if ``rank`` is larger than ``size``."""
        if self.rank is not None and self.rank > self.size:
            raise ValueError(f"rank={self.rank}: there are {self.size} eigenvalues; use fewer")
        return self

    @property
    def spectrum(self) -> Tensor:
        """Return the eigenvalues of A, (size,), the largest first."""
        known = torch.logspace(0, -1, self.rank or self.size, self.condition, dtype=torch.float64)
        return torch.cat([known, known.new_zeros(self.size - len(known))])

    def build(self, generator: torch.Generator) -> Point:
        """Return the formula. Its only parameter is ``point``, (size,)."""
        basis = torch.linalg.qr(normal(generator, self.size, self.size)).Q
        matrix = basis * self.spectrum @ basis.T
        start, centre = normal(generator, self.size), normal(generator, self.size)
        return Point(start, value, matrix=matrix, centre=centre)
