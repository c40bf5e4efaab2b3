"""The identity: no quantization."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """q(x) = x, with derivative 1: full precision for weights, activations or gradients."""

    identity: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return x, any shape."""
        return x
