"""Ternary back-propagated gradients, rounded at random (TernGrad; Wen et al., NeurIPS 2017)."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.quantizer._grid import nonzero
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class TernGrad:
    """q(g) = M sign(g) b, P(b = 1) = |g|/M, M = max |g|, g first clipped at +-clip sigma.

    sigma is the standard deviation of all of g. E q(g) is the clipped g, and the variance of an
    element |g| (M - |g|). b is drawn in every backward. The paper quantizes the gradients of
    parameters that workers send each other; here it is what is back-propagated to activations.

    Args:
        clip: g is first clipped at so many standard deviations of all of g; null for no clipping.

    """

    bits: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    clip: Annotated[float, Gt(0)] | None = 2.5

    def scale(self, g: Tensor) -> Tensor:
        """M: the largest magnitude that is left of g."""
        g = g.detach()
        largest = g.abs().amax()
        if self.clip is None:
            return largest
        return torch.minimum(largest, self.clip * g.std(correction=0))

    def __call__(self, g: Tensor, scale: Tensor | None = None) -> Tensor:
        """Quantize gradients g, any shape; scale: M instead of g's own."""
        scale = self.scale(g) if scale is None else scale
        share = (g.abs() / nonzero(scale)).clamp(max=1)
        kept = (1 + surrogate.bernoulli(surrogate.logit(share), 2 * share - 1)) / 2
        return scale * g.sign() * kept
