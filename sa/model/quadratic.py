"""A quadratic with a known spectrum: no data; where every smoothed gradient is the gradient."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


def value(w: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
    """(w - c)' A (w - c) / 2, 0-dim."""
    return (w - centre) @ matrix @ (w - centre) / 2


@dataclass(frozen=True, config=STRICT)
class Quadratic:
    """f(w) = (w - c)' A (w - c) / 2, with A's eigenvalues known and its eigenvectors random.

    The ``rank`` eigenvalues that are not 0 fall geometrically from 1 to 1/condition. c and the
    starting point are N(0, I). A and c are the buffers matrix, centre.

    Args:
        size: parameters, the dimension of the point.
        condition: largest eigenvalue of A over the smallest that is not 0.
        rank: eigenvalues of A that are not 0; null for all of them.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Gt(0)] = 8
    condition: Annotated[float, Ge(1)] = 100.0
    rank: Annotated[int, Gt(0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Quadratic":
        if self.rank is not None and self.rank > self.size:
            raise ValueError(f"rank={self.rank}: there are {self.size} eigenvalues; use fewer")
        return self

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues (size,), the largest first."""
        known = torch.logspace(0, -1, self.rank or self.size, self.condition, dtype=torch.float64)
        return torch.cat([known, known.new_zeros(self.size - len(known))])

    def build(self, generator: torch.Generator) -> Point:
        """The formula; its one parameter is named point, (size,)."""
        basis = torch.linalg.qr(normal(generator, self.size, self.size)).Q
        matrix = basis * self.spectrum @ basis.T
        start, centre = normal(generator, self.size), normal(generator, self.size)
        return Point(start, value, matrix=matrix, centre=centre)
