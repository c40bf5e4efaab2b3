"""Uniform quantization: equal steps over a range read from the tensor (Jacob et al. 2018)."""

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

    Affine: q(x) = s round(clip(x/s, -z, n - z)), s = (high - low)/n, z = round(-low/s), n =
    2^bits - 1, of a range [low, high] that holds 0, so that 0 is a level. Clips, then rounds,
    halves up. The range is detached: with m the rule in force the slope is m in the range and 0
    outside. As a gradient quantizer x is what is back-propagated, and
    stochastic rounding draws in every backward. Zeros stay.

    >>> Uniform(bits=2)(torch.tensor([-2.0, 0.6, 1.4]))
    tensor([-2.,  0.,  2.])

    Args:
        bits: bits of a code; symmetric levels need 2 or more.
        scheme: ``symmetric`` levels around 0, or ``affine`` ones over a range [low, high] that
            holds 0.
        granularity: what has a range of its own: the whole ``tensor``, each ``channel`` or each
            ``group:n`` of n elements of a channel.
        axis: dimension of the channels: 0 of weights, 1 of activations.
        range: of the elements x: ``max``, the largest; or a smaller one that clips: ``quantile``,
            ``k_sigma`` or ``mse``, of 64 fractions of the largest the one of least squared error.
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
    def _meaningful(self) -> "Uniform":
        if self.scheme == "symmetric" and self.bits == 1:
            raise ValueError("bits is 1; symmetric levels need 2 or more: -s, 0, s of 2 bits")
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
        """The range (2, groups, 1) of x."""
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
        """Quantize x, any shape; limits: instead of x's own."""
        return codes.decoded(self.coded(x, limits))

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Return whole numbers like x, and the step s of all or of each output channel.

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
        """Return n and s of a range."""
        low, high = limits
        if self.scheme == "symmetric":
            n = 2 ** (self.bits - 1) - 1
            return n, _grid.nonzero(high / n)
        n = 2**self.bits - 1
        return n, _grid.nonzero((high - low) / n)

    def step_size(self, limits: Tensor) -> Tensor | None:
        """Return s of one range for all; None where there are several."""
        return self._steps(limits)[1] if self.granularity == "tensor" else None
