"""`total`: sums that do not depend on the order of the numbers, nor on how they are split."""

import torch
from torch import Tensor

_BITS = 53
"""Number of bits of a float64 mantissa: float64 represents all whole numbers up to 2^53."""


def total(x: Tensor) -> Tensor:
    """Return the sum over the last dimension of x (..., n), float64.

    The error is at most two rounding errors. Each number is split into a whole multiple of a power
    of two, chosen by the largest number, and a remainder; the remainder is split again with a
    smaller power of two. Sums of whole numbers below 2^53 are exact, so they do not depend on the
    order. Parts smaller than 2^-70 of the largest number are left out (2^-60 for a million
    numbers). If a number is not finite, the sum is that of torch.
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
    """Return 2^k exactly, for whole k in [-1000, 1000]."""
    return ((k + 1023) << 52).view(torch.float64)
