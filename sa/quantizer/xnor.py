"""XNOR-Net's scaled binary weights (Rastegari et al., ECCV 2016)."""

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.types import STRICT, Moves


@dataclass(frozen=True, config=STRICT)
class Xnor:
    """q(w)_o = alpha_o sign(w_o), alpha_o = mean |w_o| over everything but the output channel.

    alpha minimises |w - alpha sign(w)|^2. With g = dL/dq, s = sign(w), m the rule in force and n
    the elements per scale, the gradient is, by ``scale_grad``:

    full: (s_i / n) sum_j g_j s_j + alpha g_i m(w_i) (the derivative of the formula);
    detach: alpha g_i m(w_i) (alpha a constant); bireal: g_i m(w_i) (Liu et al. 2018).

    scale: ``channel`` (first dimension), ``tensor`` or ``none`` (alpha = 1). centre: subtract the
    mean over the same elements first; the gradient is then the above less its own mean over them.
    """

    bits: ClassVar[int] = 1
    scale: Literal["none", "tensor", "channel"] = "channel"
    scale_grad: Literal["full", "detach", "bireal"] = "full"
    centre: bool = False

    @property
    def moves(self) -> Moves | None:
        """How q(w) moves with one weight; None where it moves the signs or scales of others."""
        return None if self.centre or self.scale == "tensor" else self._moves

    def _moves(self, w: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """alpha_o moves by (|w_i + eps| - |w_i|)/n, and sign(w_i) may change."""
        moved = w + epsilon
        sign, now = surrogate.hard_sign(w), surrogate.hard_sign(moved)
        alpha, change = torch.ones_like(w), torch.zeros_like(w)
        if self.scale == "channel":
            alpha = w.abs().flatten(1).mean(1).view(-1, *[1] * (w.dim() - 1)).expand_as(w)
            change = (moved.abs() - w.abs()) / w[0].numel()
        return sign, change, (alpha + change) * (now - sign)

    @property
    def granularity(self) -> str:
        """What has levels of its own."""
        return "channel" if self.scale == "channel" else "tensor"

    def __call__(self, w: Tensor) -> Tensor:
        """Binarize weights w (out, in, ...), same shape out."""
        dims = tuple(range(1 if self.scale == "channel" else 0, w.dim()))
        if self.centre:
            w = w - w.mean(dims, keepdim=True)
        s = surrogate.sign(w)
        alpha = torch.ones_like(s[:1]) if self.scale == "none" else w.abs().mean(dims, keepdim=True)
        match self.scale_grad:
            case "full":
                return alpha * s
            case "detach":
                return alpha.detach() * s
            case "bireal":  # forward alpha s, backward that of s
                return s + (alpha * s - s).detach()
