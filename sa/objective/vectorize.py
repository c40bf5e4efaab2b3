"""`can_vmap`: tries whether torch.vmap can compute a loss at many points at once."""

import warnings

import torch

from sa.objective.forward import Forward
from sa.types import Batch, Params


@torch.no_grad()
def can_vmap(forward: Forward, point: Params, batch: Batch) -> bool:
    """Return True if vmap can compute the row losses at two points at once; it is tried.

    It cannot if an operation has no batching rule (LSTM, some attention), for which it would fail
    or loop over points, or if the forward branches on values.

    Args:
        forward: computes the row losses.
        point: the parameters that move.
        batch: rows; the first two are used.

    """
    two = {k: torch.stack([p, p]) for k, p in point.items()}
    some = batch.part(0, min(2, batch.rows))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop")  # vmap would loop
        try:
            torch.vmap(lambda one: forward.rows(one, some), randomness="same")(two)
        except (RuntimeError, UserWarning):
            return False
    return True
