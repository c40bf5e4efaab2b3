"""`from_function`: makes an objective of a plain function of the parameters."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.objective.forward import RowFunction
from sa.objective.objective import Objective
from sa.types import Batch, Params


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
