"""Directions: their angles, and losses along them."""

import math

import torch
from torch import Tensor

from sa.types import Objective, Params, flatten, unflatten


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
    """Best decrease over lrs against a gradient, its lr, and the held-out decrease at that lr."""
    drops = value - line(objective, params, unit(along), lrs)
    at, other = int(drops.argmax()), objective.heldout
    if other is None:
        return float(drops[at]), float(lrs[at]), None
    held = float(other.value(params)) - float(line(other, params, unit(along), lrs[at : at + 1])[0])
    return float(drops[at]), float(lrs[at]), held


def cosine(a: Tensor, b: Tensor) -> float:
    """<a, b>/(|a||b|) of two vectors, nan where one is 0."""
    a, b = a.double(), b.double()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms > 0 else math.nan
