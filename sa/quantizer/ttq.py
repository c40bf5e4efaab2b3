"""Ternary weights with learned levels (TTQ; Zhu, Han, Mao & Dally, ICLR 2017)."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.quantizer._learned import Decay, Learned, Rate
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class TTQ:
    """q(w) = Wp where w > Delta, -Wn where w < -Delta, else 0; Delta = threshold max |w|.

    Wp and Wn are parameters of the layer, named ``positive`` and ``negative``. Each starts as the
    mean magnitude of the weights that it replaces. With g = dL/dq, and m the surrogate in force at
    a = (w -+ Delta)/Delta: dL/dw = m g times Wp, 1 or Wn where q is Wp, 0 or -Wn. dL/dWp is the sum
    of g where q = Wp, and dL/dWn is minus the sum of g where q = -Wn.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> TTQ(threshold=0.2)(x, torch.tensor(1.5), torch.tensor(0.8))
    tensor([-0.8000, -0.8000,  0.0000,  1.5000])

    Args:
        threshold: Delta, as a share of the largest |w| of the layer.
        lr: learning rate of Wp and Wn; null for the rate of the other parameters.
        decay: weight decay of Wp and Wn; null for the decay of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    bits: ClassVar[int] = 2
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.05
    lr: Rate = None
    decay: Decay = 0.0

    def build(self, like: Tensor | None) -> Learned:
        """Return the quantizer of one layer with weights ``like`` (None for activations)."""
        return Learned(self, like)

    def start(self, w: Tensor) -> dict[str, Tensor]:
        """Return the initial Wp and Wn, by name."""
        t = surrogate.ternary(w.detach(), self._delta(w)).detach()
        means = [(w.abs() * (t == s)).sum() / (t == s).sum().clamp(min=1) for s in (1, -1)]
        return {"positive": means[0], "negative": means[1]}

    def _delta(self, w: Tensor) -> Tensor:
        """Return Delta of w, 0-dim."""
        return self.threshold * w.detach().abs().amax()

    def __call__(self, w: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return weights w quantized, any shape."""
        return codes.decoded(self.coded(w, positive, negative))

    def coded(self, w: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        """Return two terms: 0s and 1s with scale Wp, 0s and -1s with scale Wn.

        If gradients are enabled, a third term of zeros carries the gradient where q = 0.
        """
        t = surrogate.ternary(w, self._delta(w))
        terms = [
            Term(torch.where(t <= 0, 0.0, t), positive),
            Term(torch.where(t < 0, t, 0.0), negative),
        ]
        return [*terms, Term(torch.where(t == 0, t, 0.0))] if torch.is_grad_enabled() else terms
