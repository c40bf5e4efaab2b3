"""XNOR-Net's scaled binary weights (Rastegari et al., ECCV 2016)."""

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.types import STRICT, WeightMoves


@dataclass(frozen=True, config=STRICT)
class Xnor:
    """q(w)_o = alpha_o sign(w_o), alpha_o = mean |w_o| over the weights of output channel o.

    alpha minimises |w - alpha sign(w)|^2. With g = dL/dq, s = sign(w), m the surrogate in force and
    n the number of weights that share an alpha, ``scale_grad`` chooses the gradient:

    - full: (s_i / n) sum_j g_j s_j + alpha g_i m(w_i), the derivative of the formula;
    - detach: alpha g_i m(w_i), alpha counts as a constant;
    - bireal: g_i m(w_i) (Liu et al. 2018).

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> Xnor()(torch.stack([x, -2 * x]))
    tensor([[-0.9250, -0.9250,  0.9250,  0.9250],
            [ 1.8500,  1.8500, -1.8500, -1.8500]])

    Args:
        scale: alpha for each ``channel`` (first dimension), for the whole ``tensor``, or ``none``:
            alpha = 1.
        scale_grad: ``full``, ``detach`` or ``bireal``: how the gradient treats alpha, see above.
        centre: true first subtracts, from each weight, the mean of the weights that share its
            alpha. The gradient loses its mean over these weights, too.

    """

    bits: ClassVar[int] = 1
    scale: Literal["none", "tensor", "channel"] = "channel"
    scale_grad: Literal["full", "detach", "bireal"] = "full"
    centre: bool = False

    @property
    def moves(self) -> WeightMoves | None:
        """A function that returns how q(w) moves with one weight.

        None if a move of one weight also changes signs or scales of other weights.
        """
        return None if self.centre or self.scale == "tensor" else self._moves

    def _moves(self, w: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return the change of sign(w_i), and the new alpha_o, if eps is added to w_i alone."""
        moved = w + epsilon
        change = surrogate.hard_sign(moved) - surrogate.hard_sign(w)
        if self.scale == "none":
            return change, torch.ones_like(w)
        alpha = w.abs().mean(tuple(range(1, w.dim())), keepdim=True)
        return change, alpha + (moved.abs() - w.abs()) / w[0].numel()

    @property
    def granularity(self) -> str:
        """The weights that share one scale: ``channel`` or ``tensor``."""
        return "channel" if self.scale == "channel" else "tensor"

    def __call__(self, w: Tensor) -> Tensor:
        """Return weights w (out, in, ...) quantized, same shape."""
        return codes.decoded(self.coded(w))

    def coded(self, w: Tensor) -> Terms:
        """Return signs, like w, and alpha, (out, 1, ...) or with one element."""
        dims = tuple(range(1 if self.scale == "channel" else 0, w.dim()))
        if self.centre:
            w = w - w.mean(dims, keepdim=True)
        s = surrogate.sign(w)
        if self.scale == "none":
            return (Term(s),)
        alpha = (surrogate.hard_sign(w.detach()) * w).mean(dims, keepdim=True)  # 0 has slope +1
        if self.scale_grad == "bireal":  # codes of slope 1/alpha, so that q has slope 1 in s
            alpha = alpha.detach()
            some = torch.where(alpha == 0, 1.0, alpha)
            s = torch.where(alpha == 0, 0.0, s.detach()) + (s - s.detach()) / some
            return (Term(s, some),)
        return (Term(s, alpha if self.scale_grad == "full" else alpha.detach()),)
