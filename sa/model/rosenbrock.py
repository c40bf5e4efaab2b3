"""Rosenbrock's valley (1960): the parameters are the point itself, no data."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, MultipleOf
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Rosenbrock:
    """f(w) = sum (a - x)^2 + b (y - x^2)^2 over pairs of coordinates (x, y).

    The point starts at N(0, I).

    Args:
        size: parameters, the dimension of the point.
        form: ``pairs`` takes (w_1, w_2), (w_3, w_4), ..., uncoupled, with minimum 0 at x = a, y =
            a^2; ``chain`` takes (w_1, w_2), (w_2, w_3), ..., with minimum 0 at 1 where a = 1.
        a: where the minimum lies along x.
        b: weight of the valley; a large one makes it narrow.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Ge(2), MultipleOf(2)] = 2
    form: Literal["pairs", "chain"] = "pairs"
    a: float = 1.0
    b: float = 100.0

    def build(self, generator: torch.Generator) -> Point:
        """The formula; its one parameter is named point, (size,)."""
        return Point(normal(generator, self.size), self._value)

    def _value(self, w: Tensor) -> Tensor:
        x, y = (w[:-1], w[1:]) if self.form == "chain" else (w[0::2], w[1::2])
        return ((self.a - x).square() + self.b * (y - x.square()).square()).sum()
