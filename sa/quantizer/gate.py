"""Random gates on channels, whose sparsity is learned (DSA; Ning et al., ECCV 2020)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.quantizer._learned import Decay, Learned, Rate
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Gate:
    """q(x)_c = m_c max(x_c, 0); while an estimator samples, the gate m_c is 1 with probability p_c.

    The layer has one parameter, alpha. On average it keeps the share r = floor + (1 - floor)
    sigmoid(alpha) of its C channels: p_c = sigmoid(logit(u_c)/temperature + s), where s is such
    that the mean of p_c is r. u_c = (rank_c - 1/2)/C; the channel with the largest mean of
    max(x, 0) has rank C. No gradient passes through ranks. Gates are drawn for each row. In
    evaluation, and with estimators that do not sample, m_c = 1 where p_c >= 1/2.

    The estimator defines the backward: a straight-through (sr_ste, st), a relaxation (gumbel) or
    the score function (reinforce, rloo).

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> gate = Gate(start_at=0.5)
    >>> gate.build(None)(x[None]).detach().float()
    tensor([[0.0000, 0.0000, 0.2000, 1.0000]])

    Args:
        floor: smallest share of the channels that a layer can keep.
        temperature: a low one keeps the r C largest channels; a high one keeps all channels with
            the same probability r.
        start_at: r at the start, the share of the channels that a layer keeps; above floor.
        budget: share of the channels, averaged over the gated layers, without a penalty.
        price: price max(0, mean r - budget) is added to the loss that is studied.
        granularity: channels are ranked in each ``sample`` (row), or in all rows together
            (``tensor``); then the gates of a row depend on the other rows.
        lr: learning rate of alpha; null for the rate of the other parameters.
        decay: weight decay of alpha; null for the decay of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    laws: ClassVar[Mapping[str, str]] = {"levels": "it switches channels off, and rounds none"}
    floor: Annotated[float, Ge(0), Lt(1)] = 0.05
    temperature: Annotated[float, Gt(0)] = 0.5
    start_at: Annotated[float, Gt(0), Lt(1)] = 0.9
    budget: Annotated[float, Ge(0), Le(1)] = 0.5
    price: Annotated[float, Ge(0)] = 0.0
    granularity: Literal["sample", "tensor"] = "sample"
    lr: Rate = None
    decay: Decay = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Gate":
        """Raise ValueError if ``start_at`` or ``budget`` is below the floor."""
        if self.start_at <= self.floor:
            raise ValueError(f"start_at={self.start_at:g}: expected more than floor={self.floor:g}")
        if self.price and self.budget < self.floor:
            raise ValueError(
                f"budget={self.budget:g}: no layer keeps less than floor={self.floor:g}; "
                f"set a budget of {self.floor:g} or more, or a smaller floor"
            )
        return self

    @property
    def coupled(self) -> bool:
        """True if the gates of a row depend on the other rows."""
        return self.granularity == "tensor"

    def build(self, like: Tensor | None) -> Learned:
        """Return the gates of one layer; raise ValueError for weights."""
        if like is not None:
            raise ValueError(
                "gates are for activations, not for weights: set quantizer/activation=gate"
            )
        return Learned(self, like)

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """Return the initial alpha, by name."""
        share = (self.start_at - self.floor) / (1 - self.floor)
        return {"alpha": torch.logit(torch.tensor(share, dtype=x.dtype, device=x.device))}

    def keep(self, alpha: Tensor) -> Tensor:
        """Return r, the share of channels that are kept on average, like alpha."""
        return self.floor + (1 - self.floor) * torch.sigmoid(alpha)

    def owed(self, keeps: Tensor) -> Tensor:
        """Return the penalty, 0-dim, that is added to the loss.

        Args:
            keeps: the share of channels that each layer keeps, (layers,).

        """
        return self.price * (keeps.mean() - self.budget).clamp(min=0)

    def logits(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Return the logits of p, (rows, channels, 1, ...), at pre-activations x."""
        size = x.detach().clamp(min=0).reshape(*x.shape[:2], -1).mean(2)
        size = size if self.granularity == "sample" else size.mean(0, keepdim=True)
        ranks = size.argsort(dim=-1, stable=True).argsort(dim=-1)
        u = (torch.arange(x.shape[1], dtype=x.dtype, device=x.device) + 0.5) / x.shape[1]
        spread = torch.logit(u) / self.temperature
        phi = spread[ranks] + _shift(spread, self.keep(alpha))
        return phi.expand(x.shape[:2]).reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    def __call__(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Return the gated activations of pre-activations x, (rows, channels, ...)."""
        gates = (1 + surrogate.bernoulli(self.logits(x, alpha))) / 2
        return gates * x.clamp(min=0)


def _shift(spread: Tensor, share: Tensor) -> Tensor:
    """Return the s (1,) with mean sigmoid(spread + s) = share.

    It is found by bisection and one Newton step. The derivative of the Newton step with respect to
    the share, 1 / mean slope, is that of the exact solution.
    """
    with torch.no_grad():
        low, high = surrogate.logit(share) - spread.max(), surrogate.logit(share) - spread.min()
        for _ in range(24):
            middle = (low + high) / 2
            less = torch.sigmoid(spread + middle).mean() < share
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        p = torch.sigmoid(spread + middle)
        slope = (p * (1 - p)).mean().clamp(min=torch.finfo(p.dtype).tiny)
    return middle + (share - p.mean()) / slope
