"""What quantizers with a scale share: groups of elements, their ranges, clipping, stored ranges."""

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
"""What a range takes where ``reach`` is null: root mean squares, share of the elements."""

FRACTIONS = 64
"""Into how many parts the search for the range of least squared error cuts the largest one."""


def check_reach(how: Range, reach: float | None) -> None:
    """Refuse a reach that the range does not take."""
    if reach is not None and how not in REACH:
        raise ValueError(f"range={how} takes no reach (got {reach:g}); set reach=null")
    if how == "quantile" and reach is not None and reach > 1:
        raise ValueError(f"the quantile is {reach:g}; it must be in (0, 1]")


def split(x: Tensor, granularity: str, axis: int) -> Tensor:
    """The elements of x as (groups, n), a row for every range."""
    if granularity == "tensor":
        return x.reshape(1, -1)
    rows = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    if granularity == "channel":
        return rows
    size = int(granularity.partition(":")[2])
    if rows.shape[1] % size:
        raise ValueError(
            f"granularity={granularity}: a channel of {tuple(x.shape)} has {rows.shape[1]} "
            f"elements, which {size} does not divide"
        )
    return rows.reshape(-1, size)


def join(rows: Tensor, like: Tensor, granularity: str, axis: int) -> Tensor:
    """The inverse of split: the shape of ``like``."""
    if granularity == "tensor":
        return rows.reshape(like.shape)
    return rows.reshape(like.movedim(axis, 0).shape).movedim(0, axis)


def term(rows: Tensor, step: Tensor, like: Tensor, granularity: str, axis: int) -> Terms:
    """Codes (groups, n) and steps (groups, 1), as codes of the shape of ``like`` and a scale."""
    if granularity == "tensor" or (granularity == "channel" and axis == 0):
        scale = step.reshape(-1, *[1] * (like.dim() - 1))
        return (Term(join(rows, like, granularity, axis), scale),)
    return (Term(join(step * rows, like, granularity, axis)),)


def rank(share: float, count: int) -> int:
    """Return the least k with k/count >= share: the quantile is the k-th smallest of the numbers.

    The product is rounded first: 0.07 * 100 is a little above 7 in floating point, and k is 7.
    """
    return max(1, math.ceil(round(share * count, 9)))


def size(rows: Tensor, how: Range, reach: float | None) -> Tensor:
    """The half-width (groups, 1) of a range around 0, of (groups, n); ``mse`` starts from max."""
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
    """Both ends (groups, 1) of a range that holds 0, of (groups, n); ``mse`` starts from max."""
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
    """Of several limits (..., groups, 1), for each group, those of least squared error."""
    kept, least = tries[0], torch.full_like(rows[:, :1], math.inf)
    for limits in tries:
        error = (quantize(rows, limits) - rows).square().sum(1, keepdim=True)
        kept = torch.where(error < least, limits, kept)
        least = torch.minimum(error, least)
    return kept


def clip(x: Tensor, inside: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """The values of x between low and high, with derivative 1 where ``inside`` and 0 elsewhere."""
    clipped = torch.clamp(x.detach(), torch.as_tensor(low), torch.as_tensor(high))
    return torch.where(inside, x + (clipped - x.detach()), clipped)


def nonzero(scale: Tensor) -> Tensor:
    """The scale, 1 where it is 0: whatever is divided by it is 0 then."""
    return torch.where(scale == 0, 1.0, scale)


class Scaled(Protocol):
    """A quantizer whose range is read from a tensor, or given."""

    @property
    def train(self) -> Mode:
        """Where the range comes from while a loss is studied."""
        ...

    @property
    def eval(self) -> Mode:
        """Where it comes from in evaluation."""
        ...

    @property
    def ema(self) -> float:
        """The share of a stored range that stays at every step."""
        ...

    @property
    def granularity(self) -> str:
        """What has a range of its own."""
        ...

    def limits(self, x: Tensor) -> Tensor:
        """The range (ends, groups, 1) of x."""
        ...

    def coded(self, x: Tensor, limits: Tensor | None = None) -> Terms:
        """Quantize x, by its own range or by the one given, to codes and scales."""
        ...

    def __call__(self, x: Tensor, limits: Tensor | None = None) -> Tensor:
        """Quantize x likewise, to numbers."""
        ...


@runtime_checkable
class _Stepped(Protocol):
    def step_size(self, limits: Tensor) -> Tensor | None: ...


class Stored(LayerQuantizer):
    """A quantizer with a range of its layer's: ``limits`` (ends, groups, 1), a buffer.

    The range is that of the first tensor observed that is not all 0, then limits <- ema limits + (1
    - ema) that of each tensor observed; a group of zeros starts with the widest range of the
    others. Until then it is the identity, which it says by ``asleep``. Only while ``observing`` is
    anything observed: once at the start, and after every step of training; no other forward changes
    a buffer. Uses the settings ``train`` or ``eval``, by ``training``.
    """

    spec: Scaled

    def __init__(self, spec: Scaled, like: Tensor | None):
        super().__init__(spec)
        if like is None and spec.granularity != "tensor":
            raise ValueError(
                f"granularity={spec.granularity}: a stored range of activations is one a tensor; "
                "set granularity=tensor, or train=auto and eval=auto"
            )
        some = torch.zeros(1, dtype=torch.float64) if like is None else like.detach()
        self.register_buffer("limits", spec.limits(some))
        self._zeros = not bool(self.limits.any())
        self.register_buffer("seen", torch.tensor(False))
        self.limits: Tensor
        self.seen: Tensor

    @property
    def observes(self) -> bool:
        """Whether there is anything to see yet."""
        used = "fixed" in (self.spec.train, self.spec.eval)
        return used and (self.spec.ema < 1 or not self.seen)

    @property
    def asleep(self) -> bool:
        """Whether its stored range is not there yet: all that it has seen are zeros."""
        return self._zeros and not bool(self.seen)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        return codes.decoded(self.coded(x))

    def step_size(self) -> Tensor | None:
        """Return the step of the stored range, where that is in use."""
        used = self.spec.train if self.training else self.spec.eval
        fixed = used == "fixed" and not self.asleep
        return (
            self.spec.step_size(self.limits) if fixed and isinstance(self.spec, _Stepped) else None
        )

    def coded(self, x: Tensor) -> Terms:
        """Quantize x, any shape, to codes and scales."""
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
        """Let the stored range follow the range (ends, groups, 1) of a tensor."""
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
    """The quantizer of one layer: itself where it needs no stored range and is always the same."""
    plain = spec.train == spec.eval != "fixed"
    return spec if plain else Stored(spec, like)
