"""Weights on evenly spaced levels; two moments set their range (SAWB; Choi et al., MLSys 2019)."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.quantizer import _grid
from sa.types import STRICT

COEFFICIENTS = {
    2: (3.12, -2.064), 3: (7.509, -6.892), 4: (12.68, -12.80), 5: (17.74, -18.64),
    8: (31.76, -35.04),
}  # fmt: skip
"""Bits -> (c1, c2), fitted to several densities. With 8 bits, uniform weights fit badly."""


@dataclass(frozen=True, config=STRICT)
class Sawb:
    """q(w) is the nearest of 2^bits evenly spaced levels on [-alpha, alpha], with both ends.

    alpha = c1 sqrt(mean w^2) + c2 mean |w| if that is positive, else max |w|. With m the surrogate
    in force, dq/dw = m where |w| <= alpha, else 0; alpha counts as a constant.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> Sawb(bits=2)(x)
    tensor([-1.6788, -0.5596,  0.5596,  0.5596])

    Args:
        bits: a weight has 2^bits levels.
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.

    """

    bits: Literal[2, 3, 4, 5, 8] = 2
    rounding: _grid.Rounding = "nearest"

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    def scale(self, w: Tensor) -> Tensor:
        """Return alpha of w, 0-dim."""
        (c1, c2), w = COEFFICIENTS[self.bits], w.detach()
        alpha = c1 * w.square().mean().sqrt() + c2 * w.abs().mean()
        return torch.where(alpha > 0, alpha, w.abs().amax())

    def __call__(self, w: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return weights w quantized, any shape; ``scale`` replaces the alpha of w."""
        return codes.decoded(self.coded(w, scale))

    def coded(self, w: Tensor, scale: Tensor | None = None) -> Terms:
        """Return odd whole numbers from -n to n, n = 2^bits - 1, like w, and the scale alpha/n."""
        scale = self.scale(w) if scale is None else scale
        unit, n = _grid.nonzero(scale), 2**self.bits - 1
        clipped = _grid.clip(w / unit, w.abs() <= scale, -1, 1)
        r = surrogate.rounded(n * (clipped + 1) / 2, self.stochastic)
        return (Term(2 * r - n, scale / n),)
