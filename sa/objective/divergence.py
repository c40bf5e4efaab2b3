"""When a training counts as diverged: its loss stays far above where it began."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.types import State

FACTOR = 1000.0
"""How many times its reference a loss may be. Peaks that came back were at most 4.4 times it."""

STEPS = 3
"""After how many steps in a row above that a training has diverged."""


def best_constant(criterion: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> float:
    """Return the loss of the best output that is the same for all rows; 0 without targets.

    Args:
        criterion: (outputs, targets) -> row losses; the squared error or the cross entropy.
        targets: numbers (rows, outputs), whose mean is best, or classes (rows,), whose shares are.

    """
    if not targets.numel():
        return 0.0
    if targets.is_floating_point():
        best = targets.mean(0, keepdim=True)
    else:
        best = torch.bincount(targets.flatten()).double()[None].log()
    return float(criterion(best.expand(len(targets), *best.shape[1:]), targets).double().mean())


def look(
    state: State, factor: float | None, total: float, each: Callable[[], Tensor], constant: Tensor
) -> tuple[State, list[int]]:
    """Return the state after a step and which networks have diverged, by number.

    A loss has a reference, the larger of that at the first step and that of the best constant
    output, so that a training that starts from a trained point has room. It has diverged where it
    is above factor times its reference, ``STEPS`` steps in a row.

    Args:
        state: of the step before, {} at the first one.
        factor: above 1; None: nothing diverges.
        total: the sum of the losses, >= 0, at this step.
        each: gives them (networks,); asked only if the sum is high enough, and at the first step.
        constant: the losses (networks,) of the best constant outputs.

    """
    if factor is None:
        return state, []
    if not state:
        reference = torch.maximum(each().cpu(), constant.cpu())
        state = {"reference": reference, "above": torch.zeros(len(reference), dtype=torch.int64)}
    reference, above = state["reference"], torch.zeros_like(state["above"])
    if total > factor * float(reference.min()):
        high = (each().cpu() > factor * reference) & (reference > 0)
        above = torch.where(high, state["above"] + 1, 0)
    return {**state, "above": above}, (above >= STEPS).nonzero()[:, 0].tolist()
