"""Two's-complement fixed point: a range that is a power of two (Courbariaux et al. 2014)."""

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network import codes
from sa.network.codes import Term, Terms
from sa.quantizer import _grid
from sa.quantizer._grid import Bits, Granularity, Mode, Positive, Range, Rounding, Share
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class FixedPoint:
    """q(x) = d round(clip(x/d, -n, n - 1)), d = S/n, n = 2^(bits - 1), S a power of two.

    Clips, then rounds, halves up: with m the rule in force the slope is m where -S <= x <= S - d
    and 0 where x is clipped. As a gradient quantizer x is what is back-propagated, and
    stochastic rounding draws in every backward. Zeros stay.

    Args:
        bits: bits of a code, with its sign; n = 2^(bits - 1).
        granularity: what has a range of its own: the whole ``tensor``, each ``channel`` or each
            ``group:n`` of n elements of a channel.
        axis: dimension of the channels: 0 of weights, 1 of activations.
        range: of the elements x, rounded up to a power of two: ``max``, the largest; or a smaller
            one that clips: ``quantile``, ``k_sigma`` or ``mse``, of the powers of two at or below
            the largest the one of least squared error.
        reach: of range=quantile the share of elements within it (null: 0.999); of range=k_sigma
            the root mean squares (null: 3).
        rounding: ``nearest``, halves up, or ``stochastic``: to the level above with the chance
            that keeps the mean, while an estimator samples.
        train: range used in a training step: ``auto`` takes that of the tensor itself, ``fixed``
            the layer's stored one; ``none`` keeps full precision.
        eval: range used in an evaluation: ``auto`` takes that of the tensor itself, ``fixed`` the
            layer's stored one; ``none`` keeps full precision.
        ema: share of the stored range that stays at every step.

    """

    uncoupled_by: ClassVar[str] = "train=fixed"
    bits: Bits = 8
    granularity: Granularity = "tensor"
    axis: Literal[0, 1] = 0
    range: Range = "mse"
    reach: Positive | None = None
    rounding: Rounding = "nearest"
    train: Mode = "auto"
    eval: Mode = "auto"
    ema: Share = 0.9

    @model_validator(mode="after")
    def _meaningful(self) -> "FixedPoint":
        _grid.check_reach(self.range, self.reach)
        return self

    @property
    def stochastic(self) -> bool:
        """Whether it is random while an estimator samples."""
        return self.rounding == "stochastic"

    @property
    def coupled(self) -> bool:
        """Whether a row of activations depends on the other rows."""
        return self.train == "auto"

    @property
    def needs_layer(self) -> bool:
        """Whether a layer keeps its range for it."""
        return self.train != "auto"

    def build(self, like: Tensor | None) -> "_grid.Scaled | _grid.Stored":
        """The quantizer of one layer: this one, unless a range is to be stored."""
        return _grid.built(self, like)

    def limits(self, x: Tensor) -> Tensor:
        """The range (1, groups, 1), S of x."""
        rows = _grid.split(x.detach(), self.granularity, self.axis)
        with torch.no_grad():
            half = _grid.size(rows, self.range, self.reach)
            found = power_of_two(half)[None]
            if self.range != "mse":
                return found
            tries = [found / 2**k for k in range(min(self.bits, 8) + 1)]
            return _grid.best(rows, tries, self._quantize)

    def __call__(self, x: Tensor, limits: Tensor | None = None) -> Tensor:
        """Quantize x, any shape; limits: instead of x's own."""
        return codes.decoded(self.coded(x, limits))

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Return whole numbers like x, and the step d of all or of each output channel.

        Steps that differ along the inputs of a product (``group:n``, axis 1) are no scale of its
        outputs: then the codes are the quantized numbers.
        """
        if limits is None:
            if self.train == "none":
                return (Term(x),)
            limits = self.limits(x)
        rows = _grid.split(x, self.granularity, self.axis)
        whole, step = self._codes(rows, limits, self.stochastic)
        return _grid.term(whole, step, x, self.granularity, self.axis)

    def _quantize(self, rows: Tensor, limits: Tensor) -> Tensor:
        whole, step = self._codes(rows, limits)
        return step * whole

    def _codes(
        self, rows: Tensor, limits: Tensor, stochastic: bool = False
    ) -> tuple[Tensor, Tensor]:
        # a stored average of powers of two is none: the nearest one
        half = torch.exp2(torch.round(torch.log2(_grid.nonzero(limits[0]))))
        n = 2 ** (self.bits - 1)
        d = half / n
        u = _grid.clip(rows / d, (rows >= -half) & (rows <= half - d), -n, n - 1)
        return surrogate.rounded(u, stochastic), d


def power_of_two(x: Tensor) -> Tensor:
    """Return the least power of two >= x, for each x >= 0; 0 stays 0, and NaN stays NaN.

    By the bits of x: log2 rounds the numbers just above a power of two down onto it.
    """
    mantissa, exponent = torch.frexp(x)  # x = mantissa 2^exponent, 1/2 <= mantissa < 1
    up = torch.exp2((exponent - (mantissa == 0.5).int()).to(x.dtype))
    return torch.where(x.isfinite() & (x > 0), up, x)
