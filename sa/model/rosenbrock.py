"""The valley of Rosenbrock (1960), a function of the point without data."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, MultipleOf
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.model._point import SHAPE, Point, normal
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Rosenbrock:
    """A sum f(w) = sum (a - x)^2 + b (y - x^2)^2 over pairs of coordinates (x, y).

    The point starts at N(0, I).

    Args:
        size: number of parameters, the dimension of the point.
        form: ``pairs`` takes (w_1, w_2), (w_3, w_4), ..., which are not coupled; the minimum is 0
            at x = a, y = a^2. ``chain`` takes (w_1, w_2), (w_2, w_3), ...; if a = 1, the minimum is
            0 at w = 1.
        a: position of the minimum along x.
        b: weight of the second term; a large one makes the valley narrow.

    """

    criterion: ClassVar[str] = "value"
    shape: ClassVar[tuple[int, ...]] = SHAPE
    outputs: ClassVar[int] = 1

    size: Annotated[int, Ge(2), MultipleOf(2)] = 2
    form: Literal["pairs", "chain"] = "pairs"
    a: float = 1.0
    b: float = 100.0

    def build(self, generator: torch.Generator) -> Point:
        """Return the formula. Its only parameter is ``point``, (size,)."""
        return Point(normal(generator, self.size), self._value)

    def _value(self, w: Tensor) -> Tensor:
        """Return f(w), 0-dim."""
        x, y = (w[:-1], w[1:]) if self.form == "chain" else (w[0::2], w[1::2])
        return ((self.a - x).square() + self.b * (y - x.square()).square()).sum()
