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

    Wp and Wn are parameters of the layer, named ``positive`` and ``negative``; they start as the
    mean magnitude of the weights they stand for. With g = dL/dq and m the rule in force at
    a = (w -+ Delta)/Delta: dL/dw = m g times Wp, 1, Wn on the three sets, dL/dWp = sum of g over
    the positive set, dL/dWn = minus its sum over the negative one.

    Args:
        threshold: Delta, as a share of the largest |w| of the layer.
        lr: learning rate of Wp and Wn; null for that of the other parameters.
        decay: weight decay of Wp and Wn; null for that of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    bits: ClassVar[int] = 2
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.05
    lr: Rate = None
    decay: Decay = 0.0

    def build(self, like: Tensor | None) -> Learned:
        """The quantizer of one layer."""
        return Learned(self, like)

    def start(self, w: Tensor) -> dict[str, Tensor]:
        """Wp and Wn to begin with."""
        t = surrogate.ternary(w.detach(), self._delta(w)).detach()
        means = [(w.abs() * (t == s)).sum() / (t == s).sum().clamp(min=1) for s in (1, -1)]
        return {"positive": means[0], "negative": means[1]}

    def _delta(self, w: Tensor) -> Tensor:
        return self.threshold * w.detach().abs().amax()

    def __call__(self, w: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Quantize weights w, any shape."""
        return codes.decoded(self.coded(w, positive, negative))

    def coded(self, w: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        """Return 0s and 1s times Wp, and 0s and -1s times Wn.

        Where a gradient is wanted a third term of zeros follows, which has that of the middle set.
        """
        t = surrogate.ternary(w, self._delta(w))
        terms = [
            Term(torch.where(t <= 0, 0.0, t), positive),
            Term(torch.where(t < 0, t, 0.0), negative),
        ]
        return [*terms, Term(torch.where(t == 0, t, 0.0))] if torch.is_grad_enabled() else terms
