"""Activations clipped at a learned level (PACT; Choi et al. 2018)."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.quantizer._grid import Bits, Rounding
from sa.quantizer._learned import Decay, Learned, Rate, positive
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Pact:
    """q(x) = round(clip(x, 0, alpha) n/alpha) alpha/n, n = 2^bits - 1.

    alpha is a parameter of the layer, which starts at ``start_at``. With g = dL/dq and m the
    surrogate in force: dL/dx = m g where 0 < x < alpha, else 0. dL/dalpha = sum of g where x >=
    alpha; the step alpha/n counts as a constant.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> Pact(bits=2)(x, torch.tensor(0.6))
    tensor([0.0000, 0.0000, 0.2000, 0.6000])

    Args:
        bits: an activation has 2^bits levels.
        start_at: initial alpha; the paper takes 10, and 6 to 10 work.
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.
        lr: learning rate of alpha; null for the rate of the other parameters.
        decay: weight decay of alpha, the paper's L2 penalty; null for the decay of the other
            parameters, as in the paper.

    """

    needs_layer: ClassVar[bool] = True
    bits: Bits = 4
    start_at: Annotated[float, Gt(0)] = 6.0
    rounding: Rounding = "nearest"
    lr: Rate = None
    decay: Decay = None

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    def build(self, like: Tensor | None) -> Learned:
        """Return the quantizer of one layer with weights ``like`` (None for activations)."""
        return Learned(self, like)

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """Return the initial alpha, by name."""
        return {"alpha": torch.full((), self.start_at, dtype=x.dtype, device=x.device)}

    def __call__(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Return activations x quantized, any shape."""
        alpha = positive(alpha)
        unit = alpha.detach() / (2**self.bits - 1)
        inside = torch.where((x > 0) & (x < alpha), x, x.detach().clamp(0, 0))  # NaN stays NaN
        return torch.where(
            x >= alpha, alpha, surrogate.rounded(inside / unit, self.stochastic) * unit
        )

    def step_size(self, alpha: Tensor) -> Tensor:
        """Return alpha/n, the distance between neighbouring levels."""
        return positive(alpha) / (2**self.bits - 1)
