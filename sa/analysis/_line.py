"""Unit directions, cosines, and losses along a direction."""

import math

import torch
from torch import Tensor

from sa.analysis import _finite
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Params


def unit(vector: Tensor) -> Tensor:
    """Return the vector scaled to length 1; 0 stays 0."""
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)


def line(objective: Objective, params: Params, along: Tensor, lrs: Tensor) -> Tensor:
    """Return the losses (len(lrs),) at w - lr * along, on the CPU."""
    points = flatten(params) - lrs.to(along)[:, None] * along
    return objective.values(unflatten(points, params)).cpu()


def descend(
    objective: Objective, params: Params, along: Tensor, value: float, lrs: Tensor
) -> tuple[float, float, float | None]:
    """Return the best decrease over lrs along -along, its lr, and the held-out decrease there.

    A loss that is not finite is never the best; without a finite loss all three are NaN. The last
    one is None without held-out data.
    """
    drops = value - line(objective, params, unit(along), lrs)
    best, heldout = _finite.best(drops), objective.heldout
    decrease, lr = _finite.at(drops, best), _finite.at(lrs, best)
    if heldout is None:
        return decrease, lr, None
    if best is None:
        return decrease, lr, math.nan
    one = lrs[best : best + 1]
    after = float(line(heldout, params, unit(along), one)[0])
    return decrease, lr, float(heldout.value(params)) - after


def cosine(a: Tensor, b: Tensor) -> float:
    """Return <a, b>/(|a||b|) of two vectors; NaN if one is 0."""
    a, b = a.double(), b.double()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms > 0 else math.nan
