"""Uniform levels with a learned step size (LSQ; Esser et al., ICLR 2020)."""

import math
from typing import ClassVar

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.quantizer._grid import Bits, Rounding
from sa.quantizer._learned import Decay, Learned, Rate, positive
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class LSQ:
    """q(x) = s round(clip(x/s, -Qn, Qp)); the step size s is a parameter of the layer.

    If ``signed``, Qn = 2^(bits - 1) and Qp = 2^(bits - 1) - 1; otherwise Qn = 0, Qp = 2^bits - 1.
    s starts at 2 mean |x| / sqrt(Qp), where x are the weights or the first activations; while
    these are all 0, q is the identity.

    With g = dL/dq, v = x/s and m the surrogate in force: dL/dx = m g where -Qn < v < Qp, else 0.
    dL/ds = sum of g r / sqrt(N Qp), where r is -Qn, round(v) - m v or Qp for v below, inside or
    above the range, and N is the number of weights, or of activations of one row.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> LSQ(bits=2)(x, torch.tensor(0.5))
    tensor([-1.0000, -0.5000,  0.0000,  0.5000])

    Args:
        bits: bits of a code.
        signed: true for levels on both sides of 0; false for levels from 0 upwards.
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.
        lr: learning rate of s; null for the rate of the other parameters.
        decay: weight decay of s; null for the decay of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    rounds: ClassVar[bool] = True
    bits: Bits = 4
    signed: bool = True
    rounding: Rounding = "nearest"
    lr: Rate = None
    decay: Decay = 0.0

    @model_validator(mode="after")
    def _check(self) -> "LSQ":
        """Raise ValueError if a signed code has a single bit."""
        if self.signed and self.bits == 1:
            raise ValueError("bits=1: signed levels need 2 or more; set bits=2, or signed=false")
        return self

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    @property
    def ends(self) -> tuple[int, int]:
        """(Qn, Qp): how many levels are below 0 and above 0."""
        half = 2 ** (self.bits - 1)
        return (half, half - 1) if self.signed else (0, 2 * half - 1)

    def build(self, like: Tensor | None) -> Learned:
        """Return the quantizer of one layer with weights ``like`` (None for activations)."""
        return Learned(self, like, rows=like is None)

    def start(self, x: Tensor) -> dict[str, Tensor] | None:
        """Return the initial s, by name; None if x is all 0."""
        if not x.any():
            return None
        return {"s": 2 * x.abs().mean() / math.sqrt(self.ends[1])}

    def __call__(self, x: Tensor, s: Tensor, rows: bool = False) -> Tensor:
        """Return x quantized, any shape; ``rows``: True if the first dimension numbers rows."""
        return codes.decoded(self.coded(x, s, rows))

    def coded(self, x: Tensor, s: Tensor, rows: bool = False) -> Terms:
        """Return whole numbers from -Qn to Qp, like x, and s."""
        low, high = self.ends
        count = math.prod(x.shape[1:] if rows else x.shape)
        share = 1 / math.sqrt(count * high)
        s = positive(s)
        s = share * s + (s - share * s).detach()  # the same number; its gradient times share
        v = x / s
        outside = v.detach().clamp(-low, high)
        inside = torch.where((v > -low) & (v < high), v, outside)
        return (Term(surrogate.rounded(inside, self.stochastic), s),)

    def step_size(self, s: Tensor) -> Tensor:
        """Return s, which is at least a small positive number."""
        return positive(s)
