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
    """q(g) = M sign(g) b, P(b = 1) = |g|/M, M = max |g|; g is first clipped at +-clip sigma.

    sigma is the standard deviation of all elements of g. E q(g) is the clipped g; the variance of
    an element is |g| (M - |g|). b is drawn at every backward. The paper quantizes the parameter
    gradients that workers send each other; here they are the gradients that are back-propagated to
    activations.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> TernGrad()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-1.,  0.,  1.])

    Args:
        clip: g is first clipped at this many standard deviations; null for no clipping.

    """

    bits: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    clip: Annotated[float, Gt(0)] | None = 2.5

    def scale(self, g: Tensor) -> Tensor:
        """Return M, the largest magnitude in g after clipping, 0-dim."""
        g = g.detach()
        largest = g.abs().amax()
        if self.clip is None:
            return largest
        return torch.minimum(largest, self.clip * g.std(correction=0))

    def __call__(self, g: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return gradients g quantized, any shape; ``scale`` replaces the M of g."""
        scale = self.scale(g) if scale is None else scale
        share = (g.abs() / nonzero(scale)).clamp(max=1)
        kept = (1 + surrogate.bernoulli(surrogate.logit(share), 2 * share - 1)) / 2
        return scale * g.sign() * kept
