"""Probes that are not finite: left out of every estimate, and counted."""

import torch
from torch import Tensor

from sa.types import Numbers


def sound(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with 0 in place of what is not finite, and where x is finite, as a mask."""
    ok = x.isfinite()
    return torch.where(ok, x, 0.0), ok


def counted(left_out: int | float) -> Numbers:
    """Return the info ``nonfinite``: how many directions, coordinates, points or samples are not
    part of the estimate because their loss, or its change, is not finite.
    """
    return {"nonfinite": float(left_out)}


def mean(total: Tensor, count: int, scale: float = 1.0) -> Tensor:
    """Return total/(count scale); NaN, which the loop records as diverged, where count is 0."""
    return total / (count * scale) if count else torch.full_like(total, torch.nan)


def coordinates(grad: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Return a gradient taken coordinate by coordinate with 0 where it is not finite.

    Also how many coordinates that are. Where none is finite the gradient is NaN: diverged.
    """
    kept = {k: sound(g) for k, g in grad.items()}
    total = sum(g.numel() for g in grad.values())
    left_out = total - sum(int(ok.sum()) for _, ok in kept.values())
    if left_out == total:
        return {k: torch.full_like(g, torch.nan) for k, g in grad.items()}, left_out
    return {k: g for k, (g, _) in kept.items()}, left_out
