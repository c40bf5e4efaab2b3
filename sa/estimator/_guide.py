"""Surrogate gradients that guide a search, and the subspace that the last ones span."""

import torch
from torch import Tensor

from sa import surrogate
from sa.estimator import _slopes
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Params, State


def gradient(
    objective: Objective, params: Params, slope: _slopes.Name, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the loss and the straight-through gradient (D,) of a slope, in 3 evals."""
    with surrogate.backward(_slopes.rule(slope)):
        value, grad = objective.value_and_grad(params, generator=generator)
    return value, flatten(grad)


def unit(vectors: Tensor) -> Tensor:
    """Return rows (..., D) scaled to length 1; rows of 0 stay 0."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def orthonormal(rows: Tensor) -> Tensor:
    """Return orthonormal rows (k', D) with the span of rows (k, D), in order, by Gram-Schmidt.

    Each row is orthogonalised twice. A row that adds less than a millionth of its length to the
    span of the rows before it is left out.
    """
    basis, count = torch.zeros_like(rows), 0
    for row in unit(rows):
        for _ in range(2):
            row = row - (basis[:count] @ row) @ basis[:count]
        if row.norm() > 1e-6:
            basis[count], count = unit(row), count + 1
    return basis[:count]


def recent(state: State, vector: Tensor, k: int) -> Tensor:
    """Return the last k vectors (at most k, D): those of the state, then ``vector``."""
    before = state.get("recent", vector.new_zeros(0, len(vector)))
    return torch.cat([before, vector[None]])[-k:]


def pair_losses(objective: Objective, params: Params, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) at w + e, and those at w - e, for moves e (n, D)."""
    w, n = flatten(params), len(moves)
    losses = objective.values(unflatten(torch.cat([w + moves, w - moves]), params))
    return losses[:n], losses[n:]
