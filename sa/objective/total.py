"""Sums of many numbers that come out the same in whatever order and parts they are added."""

import torch
from torch import Tensor

_BITS = 53
"""Of whole numbers that float64 has all of."""


def total(x: Tensor) -> Tensor:
    """Return the sum of the last dimension of x (..., n), float64, to within two rounding errors.

    The numbers are cut into whole multiples of a power of two that fits the largest one, and what
    is left of each into whole multiples of a smaller one. Sums of whole numbers below 2^53 are
    exact, so they do not depend on the order. What is below 2^-70 of the largest number is left
    out (of a million numbers 2^-60). Sums that are not finite are those of torch.
    """
    room = _BITS - x.shape[-1].bit_length()
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    largest = torch.maximum(-low, high)
    exponent = torch.frexp(largest)[1].long()  # |x| < 2^exponent
    unit = _power((room - exponent).clamp(-1000, 1000))
    scaled = x * unit
    whole = scaled.floor()
    rest = scaled.sub_(whole).mul_(2.0**room).floor_()
    exact = (whole.sum(-1) + rest.sum(-1) * 2.0**-room) / unit.squeeze(-1)
    return torch.where(largest.isfinite().squeeze(-1), exact, x.sum(-1))


def _power(k: Tensor) -> Tensor:
    """2^k exactly, for whole k in [-1000, 1000]."""
    return ((k + 1023) << 52).view(torch.float64)
