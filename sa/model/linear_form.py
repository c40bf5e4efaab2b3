"""A linear function: no data; where the cosine of a sampled gradient has a closed form."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


def value(w: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """g.w + f0, 0-dim."""
    return slope @ w + offset


@dataclass(frozen=True, config=STRICT)
class LinearForm:
    """f(w) = g.w + offset, with |g| = norm in a random direction, the buffer slope.

    The point starts at 0, where f is the offset: what estimators without a baseline suffer from.

    Args:
        size: parameters, the dimension of the point.
        norm: |g|, the length of the gradient.
        offset: value at 0, where the point starts.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Gt(0)] = 8
    norm: Annotated[float, Gt(0)] = 1.0
    offset: float = 1.0

    def build(self, generator: torch.Generator) -> Point:
        """The formula; its one parameter is named point, (size,)."""
        g = normal(generator, self.size)
        offset = torch.tensor(self.offset, dtype=torch.float64)
        return Point(torch.zeros_like(g), value, slope=g * (self.norm / g.norm()), offset=offset)
