"""What is asked of top spaces, block by block: headroom, gap, overlap, projections.

A space is {names, values (c,), vectors (c, D_b), k}: of c eigenpairs the first k are filtered.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sa.params import flatten, unflatten
from sa.types import Numbers, Params

Spaces = Mapping[str, Mapping[str, Any]]


def headroom(spaces: Spaces, edge: float, whole: bool) -> float:
    """The largest stable scale, edge/lambda_{k+1}; whole: of all directions, edge/lambda_1.

    The least of all blocks; infinity where no such eigenvalue is above 0.
    """
    sharpest = max((float(s["values"][0 if whole else s["k"]]) for s in spaces.values()), default=0)
    return edge / sharpest if sharpest > 0 else math.inf


def gap(spaces: Spaces) -> float:
    """lambda_k/lambda_{k+1}, the least of all blocks; infinity where lambda_{k+1} <= 0."""
    ends = [(float(s["values"][s["k"] - 1]), float(s["values"][s["k"]])) for s in spaces.values()]
    return min((a / b if b > 0 else math.inf for a, b in ends), default=math.nan)


def told(spaces: Spaces) -> Numbers:
    """Gap and lambda_1, ..., lambda_{k+1}; of several blocks with the block's name before."""
    out: Numbers = {"gap": gap(spaces)}
    for block, space in spaces.items():
        prefix = f"{block}/" if len(spaces) > 1 else ""
        values = space["values"][: space["k"] + 1].tolist()
        out |= {f"{prefix}lambda_{i}": v for i, v in enumerate(values, 1)}
    return out


def projected(spaces: Spaces, grad: Params) -> Tensor:
    """The part (D,) of a vector that lies in the top spaces."""
    out = {k: torch.zeros_like(g) for k, g in grad.items()}
    for space in spaces.values():
        like = {k: grad[k] for k in space["names"]}
        rows = space["vectors"][: space["k"]]
        out |= unflatten((rows @ flatten(like)) @ rows, like)
    return flatten(out)


def overlap(old: Spaces, new: Spaces) -> float:
    """Mean squared cosine between old top spaces and the new: 1 the same, 0 orthogonal.

    |U V'|_F^2/k, the mean over blocks; 1 minus it is the squared chordal distance over k.
    """
    each = []
    for block in [b for b in old if b in new]:  # in order: a set's differs between processes
        a, b = (s["vectors"][: s["k"]] for s in (old[block], new[block]))
        least = min(len(a), len(b))
        each.append(float((a @ b.T).double().square().sum()) / least)
    return sum(each) / len(each) if each else math.nan
