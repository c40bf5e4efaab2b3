"""Which of many rows of states are the same, so that each is evaluated once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.params import stream

_GATHER = 0x0102040810204080  # times eight bytes of 0 or 1: their bits, in the topmost byte


def distinct(states: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(first, same): states[first][same] is states, and groups[first][same] is groups.

    states (n, m): bool; groups (n,): whole numbers. Rows are told apart by a random sum, exact in
    float64, and then compared: a rare collision only costs that nothing is shared.
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
    key = sums.long() * 0x1E3779B97F4A7C15 + groups * 0x2545F4914F6CDD1D  # wraps around
    same = torch.unique(key, return_inverse=True)[1]
    first = everyone.new_empty(int(same.max()) + 1)
    first[same] = everyone
    chosen = first[same]
    if torch.equal(bits[chosen], bits) and torch.equal(groups[chosen], groups):
        return first, same
    return everyone, everyone
