"""Objectives of plain functions of the parameters, or of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sa.objective.forward import Forward
from sa.objective.objective import Objective
from sa.types import Batch, Params, RowLoss


@dataclass(eq=False)
class RowFunction(Forward):
    """A forward that calls a plain function, (params, batch) -> row losses (n,)."""

    function: RowLoss

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point."""
        return self.function(params, batch)


def from_function(loss: Callable[[Params], Tensor], *, vectorized: bool = False) -> Objective:
    """Return an objective, without a batch, that computes a plain function of the parameters.

    >>> f = from_function(lambda p: (p["w"] ** 2).sum())
    >>> float(f.value({"w": torch.tensor([3.0, 4.0])}))
    25.0

    Args:
        loss: the function, params -> 0-dim tensor.
        vectorized: True if ``torch.func.vmap`` may run the function at many points at once. This is
            much faster. It works if the function does not branch on values or call ``.item()``.

    """
    one = torch.zeros(1, 0)
    rows = RowFunction(lambda params, batch: loss(params).reshape(1), vectorized=vectorized)
    return Objective(rows, Batch(one, one))
