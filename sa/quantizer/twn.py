"""Ternary weights by a threshold on their magnitude (TWN; Li, Zhang & Liu 2016)."""

from typing import Annotated, ClassVar

from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class TWN:
    """q(w) = alpha t, t = sign(w) where |w| > Delta, else 0; Delta = factor mean |w|.

    alpha, the mean of the |w| above Delta, minimises |w - alpha t|^2 for this t. dL/dw =
    alpha g m(a) with g = dL/dq and m the surrogate in force at a = (w -+ Delta)/Delta; alpha and
    Delta count as constants. The best factor is 0.767 for Gaussian, 0.667 for uniform and 0.999
    for Laplacian weights; the paper takes 0.7 for all.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> TWN(factor=0.7)(x)
    tensor([-1.5000,  0.0000,  0.0000,  1.5000])

    Args:
        factor: Delta, as a multiple of the mean |w| of the layer.

    """

    bits: ClassVar[int] = 2
    factor: Annotated[float, Gt(0)] = 0.7

    def scale(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Delta, alpha) of w."""
        size = w.detach().abs()
        delta = self.factor * size.mean()
        above = (size > delta).to(w.dtype)
        return delta, (size * above).sum() / above.sum().clamp(min=1)

    def __call__(self, w: Tensor, scale: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return weights w quantized, any shape; ``scale`` replaces the (Delta, alpha) of w."""
        return codes.decoded(self.coded(w, scale))

    def coded(self, w: Tensor, scale: tuple[Tensor, Tensor] | None = None) -> Terms:
        """Return t, like w, with the scale alpha."""
        delta, alpha = self.scale(w) if scale is None else scale
        return (Term(surrogate.ternary(w, delta), alpha),)
