"""Weight matching: permutations of the units of one network that bring it near another."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sa.network.structure import Units
from sa.types import Params


def permuted(tensors: Params, units: Units, order: Tensor) -> Params:
    """Return the tensors with unit order[i] of a hidden layer in place i: the same function."""
    moved = {k: tensors[k][order] for k in units.rows if k in tensors}
    if units.columns in tensors:
        w = tensors[units.columns]
        moved[units.columns] = _by_input(w, len(order))[:, order].reshape(w.shape)
    return tensors | moved


def matched(first: Params, second: Params, layers: Sequence[Units]) -> list[Tensor]:
    """Return an order (units,) of each hidden layer of the second network that is near the first.

    The orders are a local maximum of sum <first, permuted second> over all tensors. Each layer in
    turn solves a linear assignment with the other layers fixed, until no layer changes. This is
    algorithm 1 of Git Re-Basin (Ainsworth et al., ICLR 2023), but that takes the layers in a random
    sequence.
    """
    first, second = ({k: p.double().cpu() for k, p in x.items()} for x in (first, second))
    orders = [torch.arange(len(first[x.rows[0]])) for x in layers]
    changes = True
    while changes:
        changes = False
        for at, units in enumerate(layers):
            gain = _similar(first, second, units)
            _, picked = linear_sum_assignment(gain.numpy(), maximize=True)
            order = torch.from_numpy(picked)
            more = float(gain[torch.arange(len(order)), order].sum() - gain.trace())
            if more > 1e-9 * float(gain.abs().sum()):
                second = permuted(second, units, order)
                orders[at], changes = orders[at][order], True
    return orders


def _similar(first: Params, second: Params, units: Units) -> Tensor:
    """Return the inner products (units, units) of the weights of units of the two networks."""
    count = len(first[units.rows[0]])
    sides = []
    for tensors in (first, second):
        parts = [tensors[k].reshape(count, -1) for k in units.rows if k in tensors]
        ahead = _by_input(tensors[units.columns], count).transpose(0, 1).reshape(count, -1)
        sides.append(torch.cat([*parts, ahead], dim=1))
    return sides[0] @ sides[1].T


def _by_input(weight: Tensor, count: int) -> Tensor:
    """Return weights (o, i, ...) grouped by the unit they read: (o, count, rest)."""
    return weight.reshape(len(weight), count, -1)
