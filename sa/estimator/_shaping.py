"""Fitness shaping: losses replaced by weights that depend on their order alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def ranks(losses: Tensor) -> Tensor:
    """Return centred ranks in [-1/2, 1/2], the largest loss highest (Salimans et al. 2017)."""
    table = torch.linspace(-0.5, 0.5, len(losses), dtype=losses.dtype, device=losses.device)
    return _by_order(losses, table if len(losses) > 1 else table * 0)


def utilities(losses: Tensor) -> Tensor:
    """Return the utilities of Wierstra et al. (CEC 2008, JMLR 2014), negated because losses fall.

    The k-th smallest of n losses has the utility n max(0, log(n/2 + 1) - log k)/sum - 1. So only
    losses of the better half have different utilities.
    """
    n = len(losses)
    k = torch.arange(1, n + 1, dtype=losses.dtype, device=losses.device)
    raw = (torch.log(torch.full_like(k, n / 2 + 1)) - k.log()).clamp(min=0)
    return _by_order(losses, 1 - n * raw / raw.sum())


SHAPINGS: dict[str, Callable[[Tensor], Tensor]] = {"ranks": ranks, "utilities": utilities}
"""Name -> losses (n,) to weights (n,) of mean 0."""


def _by_order(losses: Tensor, table: Tensor) -> Tensor:
    """Return table[k] for the k-th smallest loss; equal losses share the mean of their entries.

    Without the mean, the order of evaluation would decide between equal losses, which are frequent
    with step functions, and a flat loss would give a random walk.
    """
    values, group, count = torch.unique(losses, return_inverse=True, return_counts=True)
    placed = torch.empty_like(table)
    placed[torch.argsort(losses)] = table
    mean = torch.zeros_like(values).index_add_(0, group, placed) / count
    return mean[group]
