"""Losses that are not finite: every estimate leaves them out and counts them."""

import torch
from torch import Tensor

from sa.types import Numbers


def sound(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with 0 for entries that are not finite, and the mask of the finite entries."""
    ok = x.isfinite()
    return torch.where(ok, x, 0.0), ok


def counted(left_out: int | float) -> Numbers:
    """Return the info ``nonfinite``: how many directions, coordinates, points or samples are left
    out of the estimate because their loss, or its change, is not finite.
    """
    return {"nonfinite": float(left_out)}


def mean(total: Tensor, count: int, scale: float = 1.0) -> Tensor:
    """Return total/(count scale); NaN, which the loop records as diverged, if count is 0."""
    return total / (count * scale) if count else torch.full_like(total, torch.nan)


def coordinates(grad: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Return the gradient with 0 for coordinates that are not finite, and how many they are.

    If no coordinate is finite, the gradient is NaN: diverged.
    """
    checked = {k: sound(g) for k, g in grad.items()}
    total = sum(g.numel() for g in grad.values())
    left_out = total - sum(int(ok.sum()) for _, ok in checked.values())
    if left_out == total:
        return {k: torch.full_like(g, torch.nan) for k, g in grad.items()}, left_out
    return {k: g for k, (g, _) in checked.items()}, left_out
