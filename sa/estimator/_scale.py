"""The smoothing length sigma: its range, a check against rounding, and an automatic choice."""

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import doc
from pydantic import PlainValidator
from torch import Tensor

from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Moment, Params

GRID = (*(m * 10.0**k for k in range(-4, 0) for m in (1, 2, 5)), 1.0)
"""The sigmas that ``auto`` tries, ascending."""

DRAWS = 32
"""Antithetic pairs that measure the smoothing gap, the same ones for every sigma."""


def _positive_or_auto(value: Any) -> Any:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if value == "auto" or 0 < number < math.inf:
        return value if value == "auto" else number
    raise ValueError(
        "expected a finite number greater than 0, in the units of the weights, or auto"
    )


Sigma = Annotated[
    float | Literal["auto"],
    PlainValidator(_positive_or_auto),
    doc("a number greater than 0, or auto"),
]
"""A smoothing length > 0, or ``auto``."""


def _spacing(params: Params, dtype: torch.dtype | None) -> tuple[float, float, torch.dtype]:
    """Return the largest |w|, the spacing of numbers near it, and the dtype of that spacing.

    Args:
        params: the tensors w.
        dtype: dtype of the numbers; None takes the dtype of each tensor.

    """
    at, largest, kind = 0.0, 0.0, torch.float64
    for p in params.values():
        top = float(p.detach().abs().max()) if p.numel() else 0.0
        space = torch.finfo(dtype or p.dtype).eps * top
        if space > at:  # false if space is NaN
            at, largest, kind = space, top, dtype or p.dtype
    return largest, at, kind


def require(
    name: str, sigma: float, params: Params, at: Moment, dtype: torch.dtype | None = None
) -> None:
    """Raise ValueError if w + sigma rounds to w for the largest weight: differences are then 0.

    It checks only before training starts. A point that outgrows sigma later has diverged, and the
    loop records that.

    Args:
        name: name of the setting, for the error message.
        sigma: its value.
        params: the point w.
        at: where in a training the call is made.
        dtype: dtype of the loss evaluation; None for the dtype of the weights.

    """
    largest, space, kind = _spacing(params, dtype)
    if at.step == 0 and sigma < space < math.inf:
        raise ValueError(
            f"{name}={sigma:g} is lost in rounding: {kind} numbers near the largest weight, "
            f"{largest:.3g}, are {space:.2g} apart; set {name} >= "
            f"{100 * space:.1g}, which keeps the rounding error below 1 %"
        )


def choose(
    objective: Objective, params: Params, value: Tensor, share: float, e: Tensor
) -> tuple[float, float, float]:
    """Return the largest sigma with a smoothing gap within +-share of the loss, its gap, the evals.

    Sigmas are tried in ascending order, up to the first one whose gap is too large or that has a
    loss that is not finite. If the smallest sigma is already too large, it is returned.

    The gap is (E f(w + sigma e) - f(w))/|f(w)| over antithetic pairs of the directions e (k, D), or
    the numerator alone if f(w) = 0. Only finite losses count; the gap is NaN if there are none.
    """
    w, here, evals = flatten(params), float(value), 0.0
    _, space, _ = _spacing(params, None)
    grid = [s for s in GRID if s >= 100 * space] or [GRID[-1]]
    best = math.nan, math.nan
    for sigma in grid:
        points = torch.cat([w + sigma * e, w - sigma * e])
        losses = objective.values(unflatten(points, params))
        ok = losses.isfinite()
        moved = float(losses[ok].mean()) - here
        evals += len(points)
        gap = moved / abs(here) if here else moved
        beyond = not ok.all() or abs(moved) > share * abs(here)
        if not beyond or math.isnan(best[0]):
            best = sigma, gap
        if beyond:
            break
    return *best, evals
