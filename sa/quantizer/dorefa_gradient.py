"""Low-bit back-propagated gradients, rounded at random (DoReFa-Net; Zhou et al. 2016)."""

from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.quantizer._grid import Bits, Rounding, nonzero
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class DorefaGradient:
    """q(g) = 2 M [q_k(g/(2 M) + 1/2 + N) - 1/2], M = max |g| of the row, q_k(r) = round(n r)/n.

    k = bits, n = 2^k - 1, N uniform in +-1/(2 n). Since round(n r + n N) = floor(n r + U) with U
    uniform in [0, 1), E q(g) = g. The variance is f (1 - f) (2 M/n)^2, where f in [0, 1) is the
    distance to the level below, in steps. N is drawn at every backward. A row of zeros stays 0.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> DorefaGradient(bits=2, rounding="nearest")(x[None])
    tensor([[-2.0000, -0.6667,  0.6667,  0.6667]])

    Args:
        bits: k; a gradient has 2^k levels.
        rounding: ``stochastic`` draws N. ``nearest`` sets N = 0 and is biased, for comparison; a
            gradient of 0 then becomes M/n, since no level is 0.

    """

    bits: Bits = 6
    rounding: Rounding = "stochastic"

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    def scale(self, g: Tensor) -> Tensor:
        """Return M of each row, (rows, 1, ...)."""
        return g.detach().abs().amax(tuple(range(1, g.dim())), keepdim=True)

    def __call__(self, g: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return gradients g (rows, ...) quantized; ``scale`` replaces the M of g."""
        scale, n = self.scale(g) if scale is None else scale, 2**self.bits - 1
        r = g / (2 * nonzero(scale)) + 0.5
        return 2 * scale * (surrogate.rounded(n * r, self.stochastic) / n - 0.5)
