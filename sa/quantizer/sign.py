"""The sign: BinaryNet's binarization (Courbariaux et al. 2016), with sign(0) = +1."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sa import surrogate
from sa.network.codes import Term, Terms
from sa.network.structure import Step


@dataclass(frozen=True)
class Sign:
    """q(x) = +1 where x >= 0, else -1; its derivative is 0, or the surrogate in force.

    >>> import torch
    >>> Sign()(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([-1.,  1.,  1.])
    """

    bits: ClassVar[int] = 1

    @property
    def step(self) -> Step:
        """The same function as thresholds and levels, for the exact fast differences."""
        return Step((0.0,), (-1.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the signs of x, any shape, elementwise."""
        return surrogate.sign(x)

    def coded(self, x: Tensor) -> Terms:
        """Return the signs of x, with scale 1."""
        return (Term(self(x)),)
