"""A linear function of the point, without data: a test in which gradients are known exactly."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


def value(w: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Return g.w + f0, 0-dim, from w and the slope g (D,) and the offset f0."""
    return slope @ w + offset


@dataclass(frozen=True, config=STRICT)
class LinearForm:
    """A linear function f(w) = g.w + offset, with |g| = norm and a random direction of g.

    The point starts at 0, where f is the offset. A large offset adds variance to estimators without
    a baseline. The cosine of a sampled gradient to g has a closed form. The buffer ``slope`` is g.

    Args:
        size: number of parameters, the dimension of the point.
        norm: |g|, the length of the gradient.
        offset: value of f at 0, where the point starts.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Gt(0)] = 8
    norm: Annotated[float, Gt(0)] = 1.0
    offset: float = 1.0

    def build(self, generator: torch.Generator) -> Point:
        """Return the formula. Its only parameter is ``point``, (size,)."""
        g = normal(generator, self.size)
        offset = torch.tensor(self.offset, dtype=torch.float64)
        return Point(torch.zeros_like(g), value, slope=g * (self.norm / g.norm()), offset=offset)
