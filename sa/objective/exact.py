"""Exact differences of a loss along every coordinate, by the fast path or by brute force."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sa.flips import brute, cuts
from sa.flips import differences as flips
from sa.flips.progress import Progress
from sa.network.trace import Unreadable
from sa.objective.forward import Forward
from sa.params import size
from sa.types import Batch, Params, Partial

VIEW = 64 << 20
"""The largest size, in bytes, of one view in the exact differences. A larger ``memory`` does not
change it."""


@dataclass(frozen=True)
class Differences:
    """Central differences along every coordinate, and what they cost.

    Args:
        grads: the differences, one gradient for each eps.
        evals: cost in forward-equivalents.
        path: ``fast`` (`sa.flips`) or ``brute`` (two forwards for each coordinate).
        paths: the path of each layer, by the name of its weight.

    """

    grads: list[Params]
    evals: float
    path: str
    paths: dict[str, str] = field(default_factory=dict)


def fast(
    forward: Forward,
    batch: Batch,
    params: Params,
    epsilons: Sequence[float],
    partial: Partial,
    values: Callable[[Params, Params], Tensor],
) -> Differences:
    """Return the differences by exact flips, for a network that is a chain or has cuts.

    Parameters without a cut cost two forwards for each coordinate. The arguments are those of
    `slow`.
    """
    s, width, memory = forward.structure, forward.width, forward.numerics.memory
    if s.cuts:
        _, rows = forward.chunk_sizes(batch.rows, 1, width)
        with torch.no_grad():
            grads, evals, paths = cuts.differences(
                s, params, batch, epsilons, rows, memory, partial, forward.numerics.progress
            )
        names = {cut.links[0].weight for cut in s.cuts}
        if not (others := {k: p for k, p in params.items() if k not in names}):
            return Differences(grads, evals, "fast", paths)
        rest = slow(
            forward, batch, others, epsilons, partial, lambda stack, at: values(stack, params | at)
        )
        grads = [a | b for a, b in zip(grads, rest.grads, strict=True)]
        paths |= dict.fromkeys(others, "brute")
        return Differences(grads, evals + rest.evals, "fast", paths)
    number, kept = partial.take()
    if kept:
        return Differences(kept["grads"], kept["evals"], "fast", kept["paths"])
    # a view holds several copies of every layer; views above VIEW bytes are slower, not faster
    rows = min(forward.chunk_sizes(batch.rows, 1, 12 * width)[1], max(1, VIEW // (96 * width)))
    with torch.no_grad():
        grads, evals, paths = flips.differences(
            s.links, s.statistics | s.frozen | params, list(params), batch, s.criterion,
            s.quadratic, epsilons, rows, memory // 24,
        )  # fmt: skip
    partial.keep(number, {"grads": grads, "evals": evals, "paths": paths})
    return Differences(grads, evals, "fast", paths)


def slow(
    forward: Forward,
    batch: Batch,
    params: Params,
    epsilons: Sequence[float],
    partial: Partial,
    values: Callable[[Params, Params], Tensor],
) -> Differences:
    """Return the differences by two forwards for each coordinate, for any loss.

    Args:
        forward: computes the loss.
        batch: the rows.
        params: the point.
        epsilons: the step lengths eps, each above 0.
        partial: saves the progress of the computation.
        values: (stack, base) -> the losses at the points of a stack. ``base`` has the tensors that
            are the same for all points.

    """
    why_no_fast_path = forward.structure.why_no_fast_path
    why = f" ({why_no_fast_path})" if why_no_fast_path else ""

    def together(numbers: int) -> int:
        """Return how many coordinates of a tensor to evaluate together."""
        width = forward.width + numbers // batch.rows
        return max(1, forward.chunk_sizes(batch.rows, 2 * numbers, width)[0] // 2)

    def one(epsilon: float) -> Params:
        """Return the differences for one eps."""
        what = f"brute-force differences, eps {epsilon:g}{why}"
        with Progress(forward.numerics.progress, what, size(params)) as told:
            return brute.differences(values, params, epsilon, together, partial, told)

    with torch.no_grad():
        grads = [one(epsilon) for epsilon in epsilons]
    return Differences(grads, 2.0 * size(params) * len(epsilons), "brute")


@torch.no_grad()
def profiles(
    forward: Forward, batch: Batch, params: Params, reach: float
) -> Iterator[flips.Profile]:
    """Yield the loss along every coordinate that has a profile: see `Objective.profiles`."""
    s = forward.structure
    if s.why_not_a_chain:
        raise Unreadable(
            f"exact profiles do not work for this network: {s.why_not_a_chain}; use estimator=cdg "
            "estimator.path=brute instead, which takes differences"
        )
    _, rows = forward.chunk_sizes(batch.rows, 1, 8 * forward.width)
    yield from flips.profiles(
        s.links, s.statistics | s.frozen | params, list(params), batch, s.criterion,
        s.quadratic, reach, rows,
    )  # fmt: skip
