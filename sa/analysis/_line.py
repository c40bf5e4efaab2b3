"""Directions: their angles, and losses along them."""

import math

import torch
from torch import Tensor

from sa.analysis import _finite
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Params


def unit(vector: Tensor) -> Tensor:
    """Of length 1, or 0 where it is 0."""
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)


def line(objective: Objective, params: Params, along: Tensor, lrs: Tensor) -> Tensor:
    """Losses (len(lrs),) at w - lr * along, on the CPU."""
    points = flatten(params) - lrs.to(along)[:, None] * along
    return objective.values(unflatten(points, params)).cpu()


def descend(
    objective: Objective, params: Params, along: Tensor, value: float, lrs: Tensor
) -> tuple[float, float, float | None]:
    """Best decrease over lrs against a gradient, its lr, and the held-out decrease at that lr.

    Losses that are not finite are never the best; NaN where all are. Without a held-out twin None.
    """
    drops = value - line(objective, params, unit(along), lrs)
    best, other = _finite.best(drops), objective.heldout
    there = _finite.at(drops, best), _finite.at(lrs, best)
    if other is None:
        return *there, None
    if best is None:
        return *there, math.nan
    one = lrs[best : best + 1]
    held = float(other.value(params)) - float(line(other, params, unit(along), one)[0])
    return *there, held


def cosine(a: Tensor, b: Tensor) -> float:
    """<a, b>/(|a||b|) of two vectors, nan where one is 0."""
    a, b = a.double(), b.double()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms > 0 else math.nan
