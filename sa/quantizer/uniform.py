"""Uniform quantization: equal steps over a range read from the tensor (Jacob et al. 2018)."""

from typing import Annotated

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Uniform:
    """q(x) = s round(x/s), s = max |x| / (2^(bits - 1) - 1): symmetric, one scale a tensor.

    s is detached: the slope is that of the rounding, which the rule in force gives. As a gradient
    quantizer x is what is back-propagated. A tensor of zeros stays.

    >>> import torch
    >>> Uniform(bits=2)(torch.tensor([-2.0, 0.6, 1.4]))
    tensor([-2.,  0.,  2.])
    """

    bits: Annotated[int, Ge(2), Le(16)] = 8

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        scale = x.detach().abs().amax() / (2 ** (self.bits - 1) - 1)
        scale = scale + (scale == 0)  # of zeros: any
        return surrogate.rounded(x / scale) * scale
