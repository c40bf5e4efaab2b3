"""Any function of the parameters as an objective."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.objective.forward import RowFunction
from sa.objective.objective import Objective
from sa.types import Batch, Params


def from_function(loss: Callable[[Params], Tensor], *, vectorized: bool = False) -> Objective:
    """Return a plain function of the parameters as an objective; it has no batch.

    >>> f = from_function(lambda p: (p["w"] ** 2).sum())
    >>> float(f.value({"w": torch.tensor([3.0, 4.0])}))
    25.0

    Args:
        loss: params -> 0-dim tensor.
        vectorized: whether ``torch.func.vmap`` may run the function over points. This is much
            faster, and possible if it does not branch on values or call ``.item()``.

    """
    one = torch.zeros(1, 0)
    rows = RowFunction(lambda params, batch: loss(params).reshape(1), vectorized=vectorized)
    return Objective(rows, Batch(one, one))
