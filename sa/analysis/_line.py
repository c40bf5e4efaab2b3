"""Losses along a direction."""

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
