"""Stochastic rounding to signs: the normalised activation sets the probability of +1."""

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
"""The default of ``scale`` for each normaliser."""


@dataclass(frozen=True, config=STRICT)
class RelaxedBernoulli:
    """P(q(A) = +1) = (t + 1)/2 while an estimator samples, t = A / scale clipped to [-1, 1].

    E q(A) = t. In evaluation, and with estimators that do not sample, q(A) = +1 where A >= 0, else
    -1. ``normaliser`` sets the scale. No gradient passes through the scale. With normaliser=max the
    scale grows with the number of rows, and so does the share of flipped signs.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> RelaxedBernoulli()(x)  # where no estimator samples
    tensor([-1., -1.,  1.,  1.])

    Args:
        normaliser: what A is divided by: ``max``, max A where A > 0 and |min A| where A < 0;
            ``quantile``, a quantile of |A|; ``k_sigma``, a multiple of the root mean square of A;
            ``fixed``, a number.
        scale: the quantile (null: 0.99), the multiple (null: 3) or the number (null: 1).
        granularity: one scale for the whole ``tensor``, for each ``channel`` (dimension 1) or for
            each ``sample`` (row). With the first two the outputs of a row depend on the other rows.

    """

    bits: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    normaliser: Literal["max", "quantile", "k_sigma", "fixed"] = "max"
    scale: Annotated[float, Gt(0)] | None = None
    granularity: Literal["tensor", "channel", "sample"] = "tensor"

    @model_validator(mode="after")
    def _check(self) -> "RelaxedBernoulli":
        """Raise ValueError if ``scale`` does not fit ``normaliser``."""
        if self.normaliser == "max" and self.scale is not None:
            raise ValueError(
                f"normaliser=max takes no scale (got {self.scale:g}); set scale=null, or "
                "normaliser=quantile, k_sigma or fixed"
            )
        if self.normaliser == "quantile" and (self.scale or 0) > 1:
            raise ValueError(
                f"scale={self.scale:g}: a quantile is at most 1; set scale between 0 and 1"
            )
        return self

    @property
    def coupled(self) -> bool:
        """True if the outputs of a row depend on the other rows of the batch."""
        return self.normaliser != "fixed" and self.granularity != "sample"

    @property
    def step(self) -> Step:
        """The most probable output as thresholds and levels, for the exact fast differences."""
        return Step((0.0,), (-1.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return signs drawn for pre-activations x, (rows, ...)."""
        t = (x / self._scale(x.detach())).clamp(2 * CLIP - 1, 1 - 2 * CLIP)
        return surrogate.bernoulli(2 * torch.atanh(t), x)  # logit p = log((1 + t)/(1 - t))

    def _scale(self, x: Tensor) -> Tensor:
        """Return the scale of x, above 0; it broadcasts against x."""
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
        return torch.where(scale == 0, 1.0, scale)  # 0 only if x is all 0; NaN stays NaN


def _quantile(x: Tensor, q: float, kept: int | None) -> Tensor:
    """Return the smallest entry that is >= a share q of all entries.

    ``torch.quantile`` does the same, but not for large tensors.

    Args:
        x: the entries.
        q: the share, in (0, 1].
        kept: the dimension whose slices have a quantile each; None for one of all entries.

    """
    rows = x.reshape(1, -1) if kept is None else x.movedim(kept, 0).reshape(x.shape[kept], -1)
    found = rows.kthvalue(rank(q, rows.shape[1]), dim=1).values
    shape = [1] * x.dim()
    if kept is not None:
        shape[kept] = -1
    return found.view(shape)
