"""Low-bit weights through a hyperbolic tangent (DoReFa-Net; Zhou et al. 2016)."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.quantizer._grid import Bits, Rounding, nonzero
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Dorefa:
    """q(w) = 2 q_k(tanh(w) / (2 M) + 1/2) - 1, q_k(r) = round(n r)/n, M = max |tanh w|.

    k = bits, n = 2^k - 1. The 2^k levels are evenly spaced on [-1, 1]. With one bit,
    q(w) = mean |w| sign(w), the mean over the layer. M and the mean count as constants: dq/dw =
    m (1 - tanh(w)^2)/M, or mean |w| m(w) with one bit, where m is the surrogate in force.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> Dorefa(bits=1)(x)  # mean |x| sign(x)
    tensor([-0.9250, -0.9250,  0.9250,  0.9250])

    Args:
        bits: k; a weight has 2^k levels.
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.

    """

    bits: Bits = 2
    rounding: Rounding = "nearest"

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic" and self.bits > 1

    def scale(self, w: Tensor) -> Tensor:
        """Return M, 0-dim; with one bit the mean of |w|."""
        w = w.detach()
        return w.abs().mean() if self.bits == 1 else torch.tanh(w).abs().amax()

    def __call__(self, w: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return weights w quantized, any shape; ``scale`` replaces the scale of w."""
        return codes.decoded(self.coded(w, scale))

    def coded(self, w: Tensor, scale: Tensor | None = None) -> Terms:
        """Return odd whole numbers from -n to n, like w, and the scale 1/n.

        With one bit, return signs, and the mean of |w|.
        """
        scale = self.scale(w) if scale is None else scale
        if self.bits == 1:
            return (Term(surrogate.sign(w), scale),)
        n = 2**self.bits - 1
        r = torch.tanh(w) / (2 * nonzero(scale)) + 0.5
        return (Term(2 * surrogate.rounded(n * r, self.stochastic) - n, w.new_full((), 1 / n)),)
