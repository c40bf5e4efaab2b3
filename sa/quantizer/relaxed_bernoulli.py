"""Random binary units whose chance of +1 is the normalised activation: stochastic rounding."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network.structure import Step
from sa.quantizer._grid import rank
from sa.types import STRICT

CLIP = 1e-6
"""Probabilities stay this far from 0 and 1, so that their logits are finite."""

SCALES = {"quantile": 0.99, "k_sigma": 3.0, "fixed": 1.0}


@dataclass(frozen=True, config=STRICT)
class RelaxedBernoulli:
    """P(q(A) = +1) = (t + 1)/2 while an estimator samples, t = A / scale clipped to [-1, 1].

    E q(A) = t. Elsewhere q(A) = +1 where A >= 0, else -1. The scale is set by ``normaliser``. The
    maximum grows with the number of rows, and the share of flipped signs with it. Scales are
    detached: no gradient passes through them.

    Args:
        normaliser: what A is divided by: ``max``, max A where A > 0 and |min A| where A < 0;
            ``quantile``, a quantile of |A|; ``k_sigma``, root mean squares of A; ``fixed``, a
            number.
        scale: the quantile (null: 0.99), how many root mean squares (null: 3) or the number itself
            (null: 1).
        granularity: one normaliser for the ``tensor``, each ``channel`` (dimension 1) or each
            ``sample`` (row). The first two make a row's states depend on the other rows.

    """

    bits: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    normaliser: Literal["max", "quantile", "k_sigma", "fixed"] = "max"
    scale: Annotated[float, Gt(0)] | None = None
    granularity: Literal["tensor", "channel", "sample"] = "tensor"

    @model_validator(mode="after")
    def _meaningful(self) -> "RelaxedBernoulli":
        if self.normaliser == "max" and self.scale is not None:
            raise ValueError(
                f"normaliser=max takes no scale (got {self.scale:g}); set scale=null, or "
                "normaliser=quantile, k_sigma or fixed"
            )
        if self.normaliser == "quantile" and (self.scale or 0) > 1:
            raise ValueError(f"the quantile is {self.scale:g}; it must be in (0, 1]")
        return self

    @property
    def coupled(self) -> bool:
        """Whether the states of a row depend on the other rows of the batch."""
        return self.normaliser != "fixed" and self.granularity != "sample"

    @property
    def step(self) -> Step:
        """The most probable state as thresholds and levels, for the exact fast differences."""
        return Step((0.0,), (-1.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Binarize pre-activations x (rows, ...), elementwise given the scale."""
        t = (x / self._scale(x.detach())).clamp(2 * CLIP - 1, 1 - 2 * CLIP)
        return surrogate.bernoulli(2 * torch.atanh(t), x)  # logit p = log((1 + t)/(1 - t))

    def _scale(self, x: Tensor) -> Tensor:
        """What x is divided by: broadcasts against it, > 0."""
        kept = {"tensor": None, "channel": 1, "sample": 0}[self.granularity]
        dims = [d for d in range(x.dim()) if d != kept]
        value = SCALES.get(self.normaliser, 1.0) if self.scale is None else self.scale
        match self.normaliser:
            case "max":
                up, down = (v.clamp(min=0).amax(dims, keepdim=True) for v in (x, -x))
                scale = torch.where(x > 0, up, down)
            case "quantile":
                scale = _quantile(x.abs(), value, kept)
            case "k_sigma":
                scale = value * x.square().mean(dims, keepdim=True).sqrt()
            case "fixed":
                scale = torch.full_like(x, value)
        return torch.where(scale == 0, 1.0, scale)  # of a tensor of zeros; NaN stays NaN


def _quantile(x: Tensor, q: float, kept: int | None) -> Tensor:
    """The smallest entry that is at least a share q of all; torch.quantile is limited in size."""
    rows = x.reshape(1, -1) if kept is None else x.movedim(kept, 0).reshape(x.shape[kept], -1)
    found = rows.kthvalue(rank(q, rows.shape[1]), dim=1).values
    shape = [1] * x.dim()
    if kept is not None:
        shape[kept] = -1
    return found.view(shape)
