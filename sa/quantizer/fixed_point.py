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

    x is clipped, then rounded, halves up. With m the surrogate in force, the slope is m where
    -S <= x <= S - d, and 0 where x is clipped. As a gradient quantizer, x is the back-propagated
    gradient, and stochastic rounding draws at every backward. A tensor of zeros stays 0.

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> FixedPoint(bits=3)(x)  # multiples of 2 / 4
    tensor([-2.0000, -0.5000,  0.0000,  1.0000])

    Args:
        bits: bits of a code, sign included; n = 2^(bits - 1).
        granularity: which elements share one range: those of the whole ``tensor``, of each
            ``channel``, or, with ``group:n``, each n elements of a channel.
        axis: dimension of the channels: 0 for weights, 1 for activations.
        range: how S is read from the elements x, before it is rounded up to a power of two:
            ``max``, the largest |x|; or a smaller range, which clips: a ``quantile`` of |x|,
            ``k_sigma`` (root mean squares), or ``mse``: of the powers of two up to the range of
            ``max``, the one with the smallest squared error.
        reach: for range=quantile, the share of elements inside the range (null: 0.999); for
            range=k_sigma, the number of root mean squares (null: 3).
        rounding: ``nearest`` rounds to the nearest level, halves up. ``stochastic`` rounds up or
            down at random, such that the mean is exact, while an estimator samples.
        train: range in a training step: ``auto`` reads it from the tensor, ``fixed`` takes the
            range that the layer stores; ``none`` keeps full precision.
        eval: range in an evaluation: ``auto`` reads it from the tensor, ``fixed`` takes the range
            that the layer stores; ``none`` keeps full precision.
        ema: decay of the stored range: limits <- ema limits + (1 - ema) new limits, at every step.

    """

    uncoupled_by: ClassVar[str] = "train=fixed"
    rounds: ClassVar[bool] = True
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
    def _check(self) -> "FixedPoint":
        """Raise ValueError if ``reach`` does not fit ``range``."""
        _grid.check_reach(self.range, self.reach)
        return self

    @property
    def stochastic(self) -> bool:
        """True if the quantizer draws at random while an estimator samples."""
        return self.rounding == "stochastic"

    @property
    def coupled(self) -> bool:
        """True if the quantized activations of a row depend on the other rows."""
        return self.train == "auto"

    @property
    def needs_layer(self) -> bool:
        """True if the quantizer stores a range, so that each layer needs a copy of its own."""
        return self.train != "auto"

    def build(self, like: Tensor | None) -> "_grid.Scaled | _grid.Stored":
        """Return the quantizer of one layer with weights ``like`` (None for activations).

        It is this quantizer itself, unless a range must be stored.
        """
        return _grid.built(self, like)

    def limits(self, x: Tensor) -> Tensor:
        """Return S of x, as a range (1, groups, 1)."""
        rows = _grid.split(x.detach(), self.granularity, self.axis)
        with torch.no_grad():
            half = _grid.size(rows, self.range, self.reach)
            found = power_of_two(half)[None]
            if self.range != "mse":
                return found
            tries = [found / 2**k for k in range(min(self.bits, 8) + 1)]
            return _grid.best(rows, tries, self._quantize)

    def __call__(self, x: Tensor, limits: Tensor | None = None) -> Tensor:
        """Return x quantized, any shape; ``limits`` replaces the range of x."""
        return codes.decoded(self.coded(x, limits))

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Return whole numbers like x, and the step d: one, or one for each output channel.

        If steps differ along the inputs of a product (``group:n``, axis 1), they cannot be a scale
        of its outputs. The codes are then the quantized numbers themselves.
        """
        if limits is None:
            if self.train == "none":
                return (Term(x),)
            limits = self.limits(x)
        rows = _grid.split(x, self.granularity, self.axis)
        whole, step = self._codes(rows, limits, self.stochastic)
        return _grid.term(whole, step, x, self.granularity, self.axis)

    def _quantize(self, rows: Tensor, limits: Tensor) -> Tensor:
        """Return the rows quantized to the nearest level."""
        whole, step = self._codes(rows, limits)
        return step * whole

    def _codes(
        self, rows: Tensor, limits: Tensor, stochastic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the codes of the rows, and d."""
        # a stored range is an average of powers of two: round it to the nearest power
        half = torch.exp2(torch.round(torch.log2(_grid.nonzero(limits[0]))))
        n = 2 ** (self.bits - 1)
        d = half / n
        u = _grid.clip(rows / d, (rows >= -half) & (rows <= half - d), -n, n - 1)
        return surrogate.rounded(u, stochastic), d


def power_of_two(x: Tensor) -> Tensor:
    """Return the smallest power of two >= x, for each x >= 0; 0 stays 0, and NaN stays NaN.

    It is computed from the bits of x, because log2 rounds numbers just above a power of two down.
    """
    mantissa, exponent = torch.frexp(x)  # x = mantissa 2^exponent, 1/2 <= mantissa < 1
    up = torch.exp2((exponent - (mantissa == 0.5).int()).to(x.dtype))
    return torch.where(x.isfinite() & (x > 0), up, x)
