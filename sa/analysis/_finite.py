"""Numbers that are not finite: reports leave them out and count them."""

import math

import torch
from torch import Tensor

from sa.types import Numbers


def best(values: Tensor) -> int | None:
    """Return the index of the largest finite value; None if no value is finite."""
    ok = values.isfinite()
    return int(torch.where(ok, values, -math.inf).argmax()) if ok.any() else None


def at(values: Tensor, index: int | None) -> float:
    """Return the value at an index; NaN if the index is None."""
    return math.nan if index is None else float(values[index])


def mean(values: Tensor) -> float:
    """Return the mean of the finite values; NaN if no value is finite."""
    return float(values[values.isfinite()].double().mean())


def most(values: Tensor) -> float:
    """Return the largest finite value; NaN if no value is finite."""
    return at(values, best(values))


def counted(values: Tensor) -> Numbers:
    """Return ``nonfinite``, how many values are not finite, and ``diverged``, 1 if all are not."""
    left_out = int((~values.isfinite()).sum())
    return {
        "nonfinite": float(left_out),
        "diverged": float(left_out == values.numel() > 0),
    }
