"""Functions of one number, sampled evenly: rows to learn from, and those half-way between."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.types import Batch, Splits


def sampled(f: Callable[[Tensor], Tensor], low: float, high: float, n: int) -> Splits:
    """Even points from low to high, both included, and their n - 1 middles: (n, 1) -> (n, 1)."""
    x = torch.linspace(low, high, n, dtype=torch.float64).unsqueeze(1)
    middles = (x[:-1] + x[1:]) / 2
    return Splits(Batch(x, f(x)), Batch(middles, f(middles)))
