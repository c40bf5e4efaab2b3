"""Helpers of quantizers with a scale: groups of elements, their ranges, clipping, stored ranges."""

import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Le, doc
from pydantic import StringConstraints
from torch import Tensor

from sa.network import codes
from sa.network.codes import Term, Terms
from sa.network.traits import LayerQuantizer

Bits = Annotated[int, Ge(1), Le(32)]
Granularity = Annotated[
    str,
    StringConstraints(pattern=r"^(tensor|channel|group:[1-9]\d*)$"),
    doc("tensor | channel | group:NUMBER"),
]
Range = Literal["max", "k_sigma", "quantile", "mse"]
Mode = Literal["auto", "fixed", "none"]
Rounding = Literal["nearest", "stochastic"]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]

REACH = {"k_sigma": 3.0, "quantile": 0.999}
"""The default of ``reach``: root mean squares for k_sigma, a share of the elements for quantile."""

FRACTIONS = 64
"""range=mse tries the largest range times k/FRACTIONS, for k from 1 to FRACTIONS."""


def check_reach(how: Range, reach: float | None) -> None:
    """Raise ValueError if this kind of range does not work with this reach."""
    if reach is not None and how not in REACH:
        raise ValueError(f"range={how} takes no reach (got {reach:g}); set reach=null")
    if how == "quantile" and reach is not None and reach > 1:
        raise ValueError(f"reach={reach:g}: a quantile is at most 1; set reach between 0 and 1")


def split(x: Tensor, granularity: str, axis: int) -> Tensor:
    """Return the elements of x as (groups, n): the elements of a group share one range."""
    if granularity == "tensor":
        return x.reshape(1, -1)
    rows = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    if granularity == "channel":
        return rows
    size = int(granularity.partition(":")[2])
    if rows.shape[1] % size:
        raise ValueError(
            f"granularity={granularity}: a channel of {tuple(x.shape)} has {rows.shape[1]} "
            f"elements, which {size} does not divide; use a divisor of {rows.shape[1]}, or "
            "granularity=channel"
        )
    return rows.reshape(-1, size)


def join(rows: Tensor, like: Tensor, granularity: str, axis: int) -> Tensor:
    """Return groups of elements in the shape of ``like``; it is the inverse of `split`."""
    if granularity == "tensor":
        return rows.reshape(like.shape)
    return rows.reshape(like.movedim(axis, 0).shape).movedim(0, axis)


def term(rows: Tensor, step: Tensor, like: Tensor, granularity: str, axis: int) -> Terms:
    """Return codes in the shape of ``like``, and their scale.

    Args:
        rows: codes (groups, n).
        step: steps (groups, 1).
        like: the tensor that was quantized.
        granularity: as in `split`.
        axis: as in `split`.

    """
    if granularity == "tensor" or (granularity == "channel" and axis == 0):
        scale = step.reshape(-1, *[1] * (like.dim() - 1))
        return (Term(join(rows, like, granularity, axis), scale),)
    return (Term(join(step * rows, like, granularity, axis)),)


def rank(share: float, count: int) -> int:
    """Return the smallest k with k/count >= share: the quantile is the k-th smallest number.

    The product is rounded first, because 0.07 * 100 is slightly above 7 in floating point.
    """
    return max(1, math.ceil(round(share * count, 9)))


def size(rows: Tensor, how: Range, reach: float | None) -> Tensor:
    """Return the half-width (groups, 1) of the range around 0 of each group.

    Args:
        rows: the elements (groups, n).
        how: the kind of range; ``mse`` returns the same as ``max``, where its search starts.
        reach: see `REACH`.

    """
    reach = REACH.get(how, 0.0) if reach is None else reach
    match how:
        case "k_sigma":
            return reach * rows.square().mean(1, keepdim=True).sqrt()
        case "quantile":
            at = rank(reach, rows.shape[1]) - 1
            return rows.abs().sort(dim=1).values[:, at : at + 1]
        case _:
            return rows.abs().amax(1, keepdim=True)


def ends(rows: Tensor, how: Range, reach: float | None) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper end (groups, 1) of the range of each group; it holds 0.

    The arguments are those of `size`.
    """
    reach = REACH.get(how, 0.0) if reach is None else reach
    match how:
        case "k_sigma":
            mean = rows.mean(1, keepdim=True)
            far = reach * (rows - mean).square().mean(1, keepdim=True).sqrt()
            low, high = mean - far, mean + far
        case "quantile":
            sorted_, at = rows.sort(dim=1).values, rank(reach, rows.shape[1]) - 1
            low, high = sorted_[:, -1 - at].unsqueeze(1), sorted_[:, at].unsqueeze(1)
        case _:
            low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return low.clamp(max=0), high.clamp(min=0)


def best(rows: Tensor, tries: list[Tensor], quantize: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return, for each group, the limits with the smallest squared error of quantization.

    Args:
        rows: the elements (groups, n).
        tries: the limits to compare, (..., groups, 1) each.
        quantize: (rows, limits) -> the quantized rows.

    """
    kept, least = tries[0], torch.full_like(rows[:, :1], math.inf)
    for limits in tries:
        error = (quantize(rows, limits) - rows).square().sum(1, keepdim=True)
        kept = torch.where(error < least, limits, kept)
        least = torch.minimum(error, least)
    return kept


def clip(x: Tensor, inside: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return x clipped to [low, high]; its derivative is 1 where ``inside`` is True, else 0."""
    clipped = torch.clamp(x.detach(), torch.as_tensor(low), torch.as_tensor(high))
    return torch.where(inside, x + (clipped - x.detach()), clipped)


def nonzero(scale: Tensor) -> Tensor:
    """Return the scale, with 1 in place of 0, so that a tensor of zeros can be divided by it."""
    return torch.where(scale == 0, 1.0, scale)


class Scaled(Protocol):
    """A quantizer with a range, which is read from the tensor or passed as ``limits``."""

    @property
    def train(self) -> Mode:
        """The source of the range in a training step."""
        ...

    @property
    def eval(self) -> Mode:
        """The source of the range in an evaluation."""
        ...

    @property
    def ema(self) -> float:
        """The decay of the stored range, in [0, 1]."""
        ...

    @property
    def granularity(self) -> str:
        """The elements that share one range: ``tensor``, ``channel`` or ``group:n``."""
        ...

    def limits(self, x: Tensor) -> Tensor:
        """Return the range (ends, groups, 1) of x."""
        ...

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Return the codes and scales of x; ``limits`` replaces the range of x."""
        ...

    def __call__(self, x: Tensor, limits: Tensor | None = None) -> Tensor:
        """Return x quantized, as numbers; ``limits`` replaces the range of x."""
        ...


@runtime_checkable
class _Stepped(Protocol):
    def step_size(self, limits: Tensor) -> Tensor | None: ...


class Stored(LayerQuantizer):
    """A quantizer with a range that its layer stores: the buffer ``limits`` (ends, groups, 1).

    The stored range starts as the range of the first tensor that is not all 0; a group of zeros
    then starts with the widest range of the other groups. Until there is a range, the quantizer is
    the identity, and ``asleep`` is True. Afterwards each observed tensor changes it:
    limits <- ema limits + (1 - ema) range of the tensor. Tensors are observed only while
    ``observing`` is True: once at the start, and after every step of a training. No other forward
    changes a buffer. ``training`` chooses between the settings ``train`` and ``eval``.
    """

    spec: Scaled

    def __init__(self, spec: Scaled, like: Tensor | None):
        super().__init__(spec)
        if like is None and spec.granularity != "tensor":
            raise ValueError(
                f"granularity={spec.granularity}: a stored range of activations is one a tensor; "
                "set granularity=tensor, or train=auto and eval=auto to store no range"
            )
        some = torch.zeros(1, dtype=torch.float64) if like is None else like.detach()
        self.register_buffer("limits", spec.limits(some))
        self._zeros = not bool(self.limits.any())
        self.register_buffer("seen", torch.tensor(False))
        self.limits: Tensor
        self.seen: Tensor

    @property
    def observes(self) -> bool:
        """True if the stored range can still change."""
        used = "fixed" in (self.spec.train, self.spec.eval)
        return used and (self.spec.ema < 1 or not self.seen)

    @property
    def asleep(self) -> bool:
        """True if there is no stored range yet because all observed tensors were zeros."""
        return self._zeros and not bool(self.seen)

    def forward(self, x: Tensor) -> Tensor:
        """Return x quantized, any shape."""
        return codes.decoded(self.coded(x))

    def step_size(self) -> Tensor | None:
        """Return the step of the stored range; None if that range is not in use."""
        used = self.spec.train if self.training else self.spec.eval
        fixed = used == "fixed" and not self.asleep
        return (
            self.spec.step_size(self.limits) if fixed and isinstance(self.spec, _Stepped) else None
        )

    def coded(self, x: Tensor) -> Terms:
        """Return the codes and scales of x, any shape."""
        if self.observing:
            self._observe(self.spec.limits(x.detach()))
        match self.spec.train if self.training else self.spec.eval:
            case "none":
                return (Term(x),)
            case "auto":
                return self.spec.coded(x)
            case "fixed":
                return (Term(x),) if self.asleep else self.spec.coded(x, self.limits)

    def _observe(self, now: Tensor) -> None:
        """Update the stored range with the range (ends, groups, 1) of a tensor."""
        if self.seen:
            share = torch.full_like(self.seen, self.spec.ema, dtype=torch.float32)
            self.limits.copy_(share * self.limits + (1 - share) * now)
            return
        self._zeros = not bool(now.any())
        if not self._zeros:
            widest = now.gather(1, now.abs().argmax(1, keepdim=True))
            self.limits.copy_(torch.where((now == 0).all(0), widest, now))
            self.seen.fill_(True)


def built(spec: Scaled, like: Tensor | None) -> Scaled | Stored:
    """Return the quantizer of one layer.

    It is ``spec`` itself if it stores no range and is the same in training and in evaluation.
    """
    plain = spec.train == spec.eval != "fixed"
    return spec if plain else Stored(spec, like)
