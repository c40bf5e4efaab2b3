"""Uniform quantization: equal steps over a range (Jacob et al. 2018)."""

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
class Uniform:
    """Symmetric: q(x) = s round(clip(x/s, -n, n)), s = S/n, n = 2^(bits - 1) - 1, range [-S, S].

    Affine: q(x) = s round(clip(x/s, -z, n - z)), s = (high - low)/n, z = round(-low/s),
    n = 2^bits - 1, range [low, high]. The range holds 0, so that 0 is a level. x is clipped, then
    rounded, halves up. No gradient passes through the range: with m the surrogate in force, the
    slope is m inside the range and 0 outside. As a gradient quantizer, x is the back-propagated
    gradient, and stochastic rounding draws at every backward. A tensor of zeros stays 0.

    >>> Uniform(bits=2)(torch.tensor([-2.0, 0.6, 1.4]))
    tensor([-2.,  0.,  2.])

    Args:
        bits: bits of a code; symmetric levels need 2 or more.
        scheme: ``symmetric`` spaces the levels around 0; ``affine`` over a range [low, high] that
            holds 0.
        granularity: which elements share one range: those of the whole ``tensor``, of each
            ``channel``, or, with ``group:n``, each n elements of a channel.
        axis: dimension of the channels: 0 for weights, 1 for activations.
        range: how the range is read from the elements x: ``max`` takes all of them; the others
            clip: a ``quantile``, ``k_sigma`` (root mean squares), or ``mse``: of 64 fractions of
            the largest range, the one with the smallest squared error.
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
    scheme: Literal["symmetric", "affine"] = "symmetric"
    granularity: Granularity = "tensor"
    axis: Literal[0, 1] = 0
    range: Range = "max"
    reach: Positive | None = None
    rounding: Rounding = "nearest"
    train: Mode = "auto"
    eval: Mode = "auto"
    ema: Share = 0.9

    @model_validator(mode="after")
    def _check(self) -> "Uniform":
        """Raise ValueError if ``bits`` or ``reach`` does not fit the other settings."""
        if self.scheme == "symmetric" and self.bits == 1:
            raise ValueError(
                "bits=1: symmetric levels need 2 or more; set bits=2, or scheme=affine"
            )
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
        """Return the range (2, groups, 1) of x: lower and upper ends."""
        rows = _grid.split(x.detach(), self.granularity, self.axis)
        with torch.no_grad():
            if self.scheme == "symmetric":
                half = _grid.size(rows, self.range, self.reach)
                found = torch.stack([-half, half])
            else:
                found = torch.stack(_grid.ends(rows, self.range, self.reach))
            if self.range != "mse":
                return found
            shares = [k / _grid.FRACTIONS for k in range(_grid.FRACTIONS, 0, -1)]
            return _grid.best(rows, [k * found for k in shares], self._quantize)

    def __call__(self, x: Tensor, limits: Tensor | None = None) -> Tensor:
        """Return x quantized, any shape; ``limits`` replaces the range of x."""
        return codes.decoded(self.coded(x, limits))

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Return whole numbers like x, and the step s: one, or one for each output channel.

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
        """Return the codes of the rows, and s."""
        low, high = limits
        n, s = self._steps(limits)
        if self.scheme == "symmetric":
            least, most = torch.full_like(s, -n), torch.full_like(s, n)
        else:
            least = -surrogate.rounded(-low / s).detach()
            most = n + least
        u = _grid.clip(rows / s, (rows >= low) & (rows <= high), least, most)
        return surrogate.rounded(u, stochastic), s

    def _steps(self, limits: Tensor) -> tuple[int, Tensor]:
        """Return (n, s) of a range."""
        low, high = limits
        if self.scheme == "symmetric":
            n = 2 ** (self.bits - 1) - 1
            return n, _grid.nonzero(high / n)
        n = 2**self.bits - 1
        return n, _grid.nonzero((high - low) / n)

    def step_size(self, limits: Tensor) -> Tensor | None:
        """Return s if all elements share one range; None if there are several."""
        return self._steps(limits)[1] if self.granularity == "tensor" else None
