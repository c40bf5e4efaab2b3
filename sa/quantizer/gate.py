"""Random gates on channels: sparsity that is differentiated (DSA; Ning et al., ECCV 2020)."""

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
    """q(x)_c = m_c max(x_c, 0), gate m_c = 1 with probability p_c while an estimator samples, or 0.

    A layer keeps the share r = floor + (1 - floor) sigmoid(alpha) of its C channels on average,
    alpha its parameter: p_c = sigmoid(logit(u_c)/temperature + s), u_c = (rank_c - 1/2)/C, with s
    such that mean p_c = r. The channel of the largest mean of max(x, 0) has rank C: a low
    temperature keeps the r C largest, at a high one all have the same chance r. Ranks carry no
    gradient. Elsewhere gates are at their most probable state, 1 where p_c >= 1/2. Gates are drawn
    row by row.

    The backward is the estimator's: a straight-through (sr_ste, st), a relaxation (gumbel) or the
    score function (reinforce, rloo).

    Args:
        floor: least share of the channels that a layer keeps.
        temperature: how far a channel's size decides: a low one keeps the r C largest, a high one
            gives all the same chance r.
        start_at: r, the share of the channels that a layer keeps to begin with; above floor.
        budget: share of the channels, in the mean over the gated layers, up to which nothing is
            paid.
        price: price max(0, mean r - budget) is added to the loss that is studied.
        granularity: ranks of each ``sample`` (row), or of all rows together (``tensor``), which
            makes a row's gates depend on the others.
        lr: learning rate of alpha; null for that of the other parameters.
        decay: weight decay of alpha; null for that of the other parameters.

    """

    needs_layer: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    floor: Annotated[float, Ge(0), Lt(1)] = 0.05
    temperature: Annotated[float, Gt(0)] = 0.5
    start_at: Annotated[float, Gt(0), Lt(1)] = 0.9
    budget: Annotated[float, Ge(0), Le(1)] = 0.5
    price: Annotated[float, Ge(0)] = 0.0
    granularity: Literal["sample", "tensor"] = "sample"
    lr: Rate = None
    decay: Decay = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "Gate":
        if self.start_at <= self.floor:
            raise ValueError(f"start_at={self.start_at:g}: expected more than floor={self.floor:g}")
        if self.price and self.budget < self.floor:
            raise ValueError(
                f"budget={self.budget:g}: no layer keeps less than floor={self.floor:g}; "
                "set a larger budget or a smaller floor"
            )
        return self

    @property
    def coupled(self) -> bool:
        """Whether a row's gates depend on the other rows."""
        return self.granularity == "tensor"

    def build(self, like: Tensor | None) -> Learned:
        """The gates of one layer; raises ValueError for weights."""
        if like is not None:
            raise ValueError("gates are for activations: set quantizer/activation=gate")
        return Learned(self, like)

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """Alpha to begin with."""
        share = (self.start_at - self.floor) / (1 - self.floor)
        return {"alpha": torch.logit(torch.tensor(share, dtype=x.dtype, device=x.device))}

    def keep(self, alpha: Tensor) -> Tensor:
        """The share r of channels that are kept on average."""
        return self.floor + (1 - self.floor) * torch.sigmoid(alpha)

    def owed(self, keeps: Tensor) -> Tensor:
        """What is added to the loss, 0-dim, of the shares (layers,) that all layers keep."""
        return self.price * (keeps.mean() - self.budget).clamp(min=0)

    def logits(self, x: Tensor, alpha: Tensor) -> Tensor:
        """The logits of p (rows, channels, 1, ...) at pre-activations x (rows, channels, ...)."""
        size = x.detach().clamp(min=0).reshape(*x.shape[:2], -1).mean(2)
        size = size if self.granularity == "sample" else size.mean(0, keepdim=True)
        ranks = size.argsort(dim=-1, stable=True).argsort(dim=-1)
        u = (torch.arange(x.shape[1], dtype=x.dtype, device=x.device) + 0.5) / x.shape[1]
        spread = torch.logit(u) / self.temperature
        phi = spread[ranks] + _shift(spread, self.keep(alpha))
        return phi.expand(x.shape[:2]).reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    def __call__(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Gate pre-activations x (rows, channels, ...)."""
        gates = (1 + surrogate.bernoulli(self.logits(x, alpha))) / 2
        return gates * x.clamp(min=0)


def _shift(spread: Tensor, share: Tensor) -> Tensor:
    """The s (1,) with mean sigmoid(spread + s) = share; its derivative is 1 over their mean slope.

    Bisection, and one step of Newton's, whose derivative by the share is that of the solution.
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
