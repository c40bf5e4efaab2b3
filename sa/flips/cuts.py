"""Exact coordinate differences of every kernel of a network that is no chain."""

from collections.abc import Sequence

import torch

from sa.flips import single
from sa.flips.progress import Progress
from sa.network.structure import Structure
from sa.params import ranges
from sa.types import Batch, Params, Partial


def differences(
    s: Structure,
    params: Params,
    batch: Batch,
    epsilons: Sequence[float],
    most_rows: int,
    memory: int,
    partial: Partial,
    progress: bool,
) -> tuple[list[Params], float, dict[str, str]]:
    """Return the gradient for every eps, the cost, and the method used for each kernel.

    Args:
        s: the structure; it has one cut for every kernel that moves.
        params: the point.
        batch: the rows.
        epsilons: the steps, above 0.
        most_rows: the most rows of one forward.
        memory: bytes for intermediate results.
        partial: stores the finished work, so that a killed run continues from there.
        progress: whether to print the progress on stderr.

    Returns:
        One gradient for each eps; the cost in forward-equivalents; name of a kernel ->
        ``patterns`` or ``suffixes``, as in `sa.flips.single`.

    """
    n, every = batch.rows, s.statistics | s.frozen | params
    number, kept = partial.take()
    zero = [{k: torch.zeros_like(v) for k, v in params.items()} for _ in epsilons]
    grads, paths = kept.get("grads", zero), kept.get("paths", {})
    evals, done = kept.get("evals", 0.0), kept.get("done", 0)
    with Progress(progress, "exact differences", len(s.cuts) * n, "rows") as told:
        for i, cut in enumerate(s.cuts):
            name, first = cut.links[0].weight, max(0, done - i * n)
            most = memory // (32 * single.width(cut, every, batch.part(0, 1)))
            for start, stop in ranges(n - first, max(1, min(most_rows, most))):
                part, sums = batch.part(first + start, first + stop), [g[name] for g in grads]
                work, paths[name] = single.differences(
                    cut, every, part, s.criterion, epsilons, sums, memory // 24
                )
                evals, done = evals + work / n, i * n + first + stop
                told(done)
                now = [{k: g.clone() for k, g in grad.items()} for grad in grads]
                partial.keep(
                    number, {"grads": now, "evals": evals, "paths": dict(paths), "done": done}
                )
    for grad, epsilon in zip(grads, epsilons, strict=True):
        for g in grad.values():
            g /= 2 * epsilon * n
    return grads, evals, paths
