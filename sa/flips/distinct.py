"""Which of many rows of states are the same, so that each is evaluated once."""

import torch
from torch import Tensor

from sa.types import stream


def distinct(states: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(first, same): states[first][same] is states, and groups[first][same] is groups.

    states (n, m): small whole numbers >= 0 of any dtype; groups (n,): whole numbers. Rows are told
    apart by a random sum, exact in float64, and then compared: a rare collision only costs that
    nothing is shared.
    """
    n, m = states.shape
    everyone = torch.arange(n, device=states.device)
    if n < 2:
        return everyone, everyone
    most = max(2, int(states.max()) + 1) * (m + 1)
    weights = torch.randint(1 << (52 - most.bit_length()), (m,), generator=stream(0, "distinct"))
    sums = states.double() @ weights.to(states.device).double()  # whole numbers below 2^52
    key = sums.long() * 0x1E3779B97F4A7C15 + groups * 0x2545F4914F6CDD1D  # wraps around
    same = torch.unique(key, return_inverse=True)[1]
    first = everyone.new_empty(int(same.max()) + 1)
    first[same] = everyone
    chosen = first[same]
    if torch.equal(states[chosen], states) and torch.equal(groups[chosen], groups):
        return first, same
    return everyone, everyone
