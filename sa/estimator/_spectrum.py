"""Headroom, spectral gap, overlap and projections of top spaces, one space for each block.

A space is {names, values (c,), vectors (c, D_b), k}: c eigenpairs, the first k of them filtered.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sa.curvature import solve
from sa.params import flatten, unflatten
from sa.types import Numbers, Params

Spaces = Mapping[str, Mapping[str, Any]]


def headroom(spaces: Spaces, edge: float, whole: bool) -> float:
    """Return the largest stable scale, edge/lambda_{k+1}, the least of all blocks.

    It is infinity if no such eigenvalue is above 0.

    Args:
        spaces: the space of each block.
        edge: largest stable sharpness.
        whole: True if all directions are scaled; the scale is then edge/lambda_1.

    """
    sharpest = max((float(s["values"][0 if whole else s["k"]]) for s in spaces.values()), default=0)
    return edge / sharpest if sharpest > 0 else math.inf


def gap(spaces: Spaces) -> float:
    """Return lambda_k/lambda_{k+1}, the least of all blocks; infinity if lambda_{k+1} <= 0."""
    pairs = [(float(s["values"][s["k"] - 1]), float(s["values"][s["k"]])) for s in spaces.values()]
    return min((a / b if b > 0 else math.inf for a, b in pairs), default=math.nan)


def numbers(spaces: Spaces) -> Numbers:
    """Return the gap and lambda_1, ..., lambda_{k+1}; with several blocks, as BLOCK/lambda_i."""
    out: Numbers = {"gap": gap(spaces)}
    for block, space in spaces.items():
        prefix = f"{block}/" if len(spaces) > 1 else ""
        values = space["values"][: space["k"] + 1].tolist()
        out |= {f"{prefix}lambda_{i}": v for i, v in enumerate(values, 1)}
    return out


def projected(spaces: Spaces, grad: Params) -> Tensor:
    """Return the part (D,) of a gradient that lies in the top spaces."""
    out = {k: torch.zeros_like(g) for k, g in grad.items()}
    for space in spaces.values():
        like = {k: grad[k] for k in space["names"]}
        rows = space["vectors"][: space["k"]]
        out |= unflatten((rows @ flatten(like)) @ rows, like)
    return flatten(out)


def overlap(old: Spaces, new: Spaces) -> float:
    """Return the mean squared cosine of the old and new top spaces, the mean over blocks."""
    each = []
    for block in [b for b in old if b in new]:  # a set has no fixed order
        a, b = (s["vectors"][: s["k"]] for s in (old[block], new[block]))
        each.append(solve.overlap(a, b))
    return sum(each) / len(each) if each else math.nan
