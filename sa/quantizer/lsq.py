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
    """q(x) = s round(clip(x/s, -Qn, Qp)); s, the step size, is a parameter of the layer.

    Signed: Qn = 2^(bits - 1), Qp = 2^(bits - 1) - 1; else 0 and 2^bits - 1. s starts at
    2 mean |x| / sqrt(Qp), of the weights or of the first activations; as long as those are all 0, q
    is the identity. With g = dL/dq, v = x/s and m
    the rule in force: dL/dx = m g where -Qn < v < Qp, else 0; dL/ds = sum of g times -Qn,
    round(v) - m v or Qp, over sqrt(N Qp), N the number of weights, or of activations of a row.

    Args:
        bits: bits of a code.
        signed: true for levels on both sides of 0, false from 0 up.
        rounding: ``nearest``, halves up, or ``stochastic``: to the level above with the chance
            that keeps the mean, while an estimator samples.
        lr: learning rate of s; null for that of the other parameters.
        decay: weight decay of s; null for that of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    bits: Bits = 4
    signed: bool = True
    rounding: Rounding = "nearest"
    lr: Rate = None
    decay: Decay = 0.0

    @model_validator(mode="after")
    def _meaningful(self) -> "LSQ":
        if self.signed and self.bits == 1:
            raise ValueError("bits is 1; signed levels need 2 or more: -2, ..., 1 of 2 bits")
        return self

    @property
    def stochastic(self) -> bool:
        """Whether it is random while an estimator samples."""
        return self.rounding == "stochastic"

    @property
    def ends(self) -> tuple[int, int]:
        """Qn and Qp."""
        half = 2 ** (self.bits - 1)
        return (half, half - 1) if self.signed else (0, 2 * half - 1)

    def build(self, like: Tensor | None) -> Learned:
        """The quantizer of one layer."""
        return Learned(self, like, rows=like is None)

    def start(self, x: Tensor) -> dict[str, Tensor] | None:
        """S to begin with; None of zeros."""
        if not x.any():
            return None
        return {"s": 2 * x.abs().mean() / math.sqrt(self.ends[1])}

    def __call__(self, x: Tensor, s: Tensor, rows: bool = False) -> Tensor:
        """Quantize x, any shape; rows: whether its first dimension numbers rows."""
        return codes.decoded(self.coded(x, s, rows))

    def coded(self, x: Tensor, s: Tensor, rows: bool = False) -> Terms:
        """Return whole numbers from -Qn to Qp, like x, and s."""
        low, high = self.ends
        count = math.prod(x.shape[1:] if rows else x.shape)
        share = 1 / math.sqrt(count * high)
        s = positive(s)
        s = share * s + (s - share * s).detach()  # the same number, with share of the gradient
        v = x / s
        outside = v.detach().clamp(-low, high)
        inside = torch.where((v > -low) & (v < high), v, outside)
        return (Term(surrogate.rounded(inside, self.stochastic), s),)

    def step_size(self, s: Tensor) -> Tensor:
        """Return s."""
        return positive(s)
