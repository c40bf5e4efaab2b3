"""Finds equal rows of states, so that each distinct row is evaluated once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.params import stream

_GATHER = 0x0102040810204080
"""A factor: eight bytes of 0 or 1, as one number, times it has their eight bits in the top byte."""


def distinct(states: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return (first, same), which select the distinct rows and put them back in place.

    ``states[first][same]`` equals states, and ``groups[first][same]`` equals groups. A hash, which
    is a random sum and exact in float64, finds the equal rows. They are then compared; if two
    different rows have one hash, which is rare, every row counts as distinct.

    Args:
        states: (n, m), bool.
        groups: (n,), whole numbers; rows of different groups are distinct.

    Returns:
        first (k,), one row for each distinct row; same (n,), for each row its place in first.

    """
    n, m = states.shape
    everyone = torch.arange(n, device=states.device)
    if n < 2 or not m:
        return everyone, everyone
    eights = F.pad(states, (0, -m % 8)).view(torch.int64)
    bits = (eights * _GATHER).bitwise_right_shift_(56).bitwise_and_(255)  # (n, m / 8)
    room = 52 - 8 - bits.shape[1].bit_length()
    weights = torch.randint(1 << room, bits.shape[1:], generator=stream(0, "distinct"))
    sums = bits.double() @ weights.to(states.device).double()  # whole numbers below 2^52
    key = sums.long() * 0x1E3779B97F4A7C15 + groups * 0x2545F4914F6CDD1D  # overflow is fine
    same = torch.unique(key, return_inverse=True)[1]
    first = everyone.new_empty(int(same.max()) + 1)
    first[same] = everyone
    chosen = first[same]
    if torch.equal(bits[chosen], bits) and torch.equal(groups[chosen], groups):
        return first, same
    return everyone, everyone
