"""Weight matching: the units of one network put in the order of another's."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sa.network.structure import Units
from sa.types import Params


def permuted(tensors: Params, units: Units, order: Tensor) -> Params:
    """The tensors with unit order[i] of a hidden layer in place i; the function stays as it is."""
    moved = {k: tensors[k][order] for k in units.rows if k in tensors}
    if units.columns in tensors:
        w = tensors[units.columns]
        moved[units.columns] = _blocks(w, len(order))[:, order].reshape(w.shape)
    return tensors | moved


def matched(first: Params, second: Params, layers: Sequence[Units]) -> list[Tensor]:
    """Orders (units,) of each hidden layer of the second network that bring it near the first.

    They raise sum <first, permuted second> over all tensors, a linear assignment for one layer with
    the others held, layer after layer until none changes: a local maximum (Ainsworth et al. 2023,
    Git Re-Basin, algorithm 1; there in a random sequence of layers).
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
    """Inner products (units, units) of all that belongs to a unit of the first, of the second."""
    count = len(first[units.rows[0]])
    sides = []
    for tensors in (first, second):
        parts = [tensors[k].reshape(count, -1) for k in units.rows if k in tensors]
        ahead = _blocks(tensors[units.columns], count).transpose(0, 1).reshape(count, -1)
        sides.append(torch.cat([*parts, ahead], dim=1))
    return sides[0] @ sides[1].T


def _blocks(weight: Tensor, count: int) -> Tensor:
    """Weights (o, i, ...) by the unit that they read: (o, count, rest)."""
    return weight.reshape(len(weight), count, -1)
