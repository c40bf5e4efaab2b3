"""Datasets of a function of one number: evenly spaced training points, test points between them."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.types import Batch, Splits


def sampled(f: Callable[[Tensor], Tensor], low: float, high: float, n: int) -> Splits:
    """Return n evenly spaced training points from low to high, and n - 1 test points half-way.

    Args:
        f: the function, (n, 1) -> (n, 1).
        low: the first training point.
        high: the last training point.
        n: number of training points.

    """
    x = torch.linspace(low, high, n, dtype=torch.float64).unsqueeze(1)
    middles = (x[:-1] + x[1:]) / 2
    return Splits(Batch(x, f(x)), Batch(middles, f(middles)))
