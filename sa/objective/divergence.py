"""The test for divergence: the loss stays far above the loss at the start of the training."""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.types import State

FACTOR = 1000.0
"""A loss above this multiple of its reference is too high. Peaks of trainings that recovered
were at most 4.4 times the reference."""

STEPS = 3
"""A training has diverged after this many steps in a row with a loss that is too high."""


def best_constant(criterion: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> float:
    """Return the loss of the best constant output (the same for all rows); 0 without targets.

    The best constant is the mean of the targets for the squared error, and the logarithm of the
    class frequencies for the cross entropy.

    Args:
        criterion: (outputs, targets) -> row losses; the squared error or the cross entropy.
        targets: numbers (rows, outputs), or class indices (rows,).

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
    """Return the state after a step, and the numbers of the networks that have diverged.

    A network has diverged if its loss was above ``factor`` times its reference for ``STEPS`` steps
    in a row. The reference is the loss at the first step or the loss of the best constant output,
    whichever is larger; so a training that starts from a trained point has room to get worse.

    Args:
        state: the state that the step before returned; {} at the first step.
        factor: above 1; None turns the test off.
        total: the sum of the networks' losses at this step, >= 0.
        each: returns the loss of each network, (networks,). Called at the first step, and later
            only if ``total`` is high enough.
        constant: the loss of the best constant output of each network, (networks,).

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
