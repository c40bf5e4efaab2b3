"""Random directions in weight space, drawn in fixed blocks so that no batching changes them.

All have E e = 0 and E e e' = I, so that (1/N) sum (g.e) e estimates g with the right scale.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sa.estimator import _finite, _scale
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import Estimate, Moment, Numbers, Params

BLOCK = 64
"""Directions drawn by one call of the generator: part of the stream's definition."""

Draw = Callable[[int, int, torch.Generator, Tensor], Iterator[Tensor]]
"""(count, dim, generator, like) -> blocks (k, dim) of directions, count in all."""


def gaussian(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of standard normal directions, count in all."""
    for start in range(0, count, BLOCK):
        block = torch.randn(BLOCK, dim, generator=generator, dtype=like.dtype, device=like.device)
        yield block[: count - start]


def sphere(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of directions uniform on the sphere of radius sqrt(dim)."""
    for e in gaussian(count, dim, generator, like):
        yield e * (math.sqrt(dim) / e.norm(dim=1, keepdim=True))


def uniform(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of directions uniform in the cube [-sqrt(3), sqrt(3)]^dim."""
    for u in _rand(count, dim, generator, like):
        yield (2 * u - 1) * math.sqrt(3)


def two_point(
    count: int, dim: int, generator: torch.Generator, like: Tensor, skew: float = 0.0
) -> Iterator[Tensor]:
    """Blocks (k, dim): entries 1 + skew with probability 1/(2 + skew), else -1; variance 1.

    skew 0 is Rademacher's; others are scaled by 1/sqrt(1 + skew).
    """
    for u in _rand(count, dim, generator, like):
        up = (u < 1 / (2 + skew)).to(u.dtype)
        yield (up * (2 + skew) - 1) / math.sqrt(1 + skew)


def orthogonal(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of uniformly random directions of length sqrt(dim), orthogonal in sets.

    E[e e'] = I as for normal ones; each set of dim satisfies sum e e' = dim I exactly. Sets are
    independent of each other; the last may be cut short.
    """
    if not dim:
        yield like.new_zeros(count, 0)
        return
    groups = max(1, BLOCK // dim)  # whole orthogonal sets a block; a lone one where dim is large
    for start in range(0, count, groups * dim):
        k = min(dim, count - start)  # less than a whole set only where there is but one
        shape = groups, dim, k if groups == 1 else dim
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=like.device)
        q, r = torch.linalg.qr(draw)
        q *= torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)  # Haar
        block = (q.mT * math.sqrt(dim)).reshape(-1, dim).to(like.dtype)
        yield block[: count - start]


def kept(
    draw: Draw, count: int, w: Tensor, generator: torch.Generator, objective: Objective,
    sums: dict[str, Tensor],
) -> Iterator[Tensor]:  # fmt: skip
    """The blocks of a draw, for long sums: a killed run goes on behind the last block it kept.

    sums: what the caller adds to in place for each block.
    """
    number, before = objective.partial.take()
    done = before.get("done", 0)
    if before:
        generator.set_state(before["generator"])
        for name, total in sums.items():
            total.copy_(before[name])
    for e in draw(count - done, len(w), generator, w):
        yield e
        done += len(e)
        now = {"done": done, "generator": generator.get_state()}
        objective.partial.keep(number, now | sums)


def losses(objective: Objective, params: Params, points: Tensor) -> Tensor:
    """Losses (k,) float64 at points (k, D)."""
    return objective.values(unflatten(points, params))


def pairs(
    objective: Objective, params: Params, generator: torch.Generator, at: Moment, draw: Draw,
    samples: int, sigma: float, kurtosis: float | None,
) -> Estimate:  # fmt: skip
    """(1/(2 N sigma)) sum (f(w + sigma e) - f(w - sigma e)) e over N pairs, in 2N + 1 evals.

    kurtosis: E e_i^4 of independent entries (gaussian 3, Rademacher 1; a direction on the sphere
    obeys the law of 1). Then on a linear loss E (g.e)^2 |e|^2 = |g|^2 (D + kurtosis - 1), so the
    relative variance is (D + kurtosis - 2)/N and |E g^|/sqrt(E |g^|^2), the expected cosine,
    sqrt(N/(N + D + kurtosis - 2)). ``flat``: the share of pairs whose two losses are equal. A pair
    with a loss that is not finite is left out: N counts the others.
    """
    _scale.require("sigma", sigma, params, at)
    dim, w = size(params), flatten(params)
    total, flat = torch.zeros_like(w), torch.zeros((), dtype=torch.int64)
    sound = torch.zeros_like(flat)
    sums = {"total": total, "flat": flat, "sound": sound}
    for e in kept(draw, samples, w, generator, objective, sums):
        gap = losses(objective, params, w + sigma * e) - losses(objective, params, w - sigma * e)
        gap, ok = _finite.sound(gap.to(w.dtype))
        total += gap @ e
        flat += int(((gap == 0) & ok).sum())
        sound += int(ok.sum())
    n = int(sound)
    info: Numbers = {"flat": int(flat) / max(1, n)} | _finite.counted(samples - n)
    if kurtosis is not None:
        info["cosine_expected"] = math.sqrt(samples / max(1, samples + dim + kurtosis - 2))
    grad = unflatten(_finite.mean(total, 2 * n, sigma), params)
    return Estimate(objective.value(params), grad, 2.0 * samples + 1, info=info)


def weighed(
    draw: Draw, count: int, w: Tensor, generator: torch.Generator,
    measure: Callable[[Tensor], Tensor], weigh: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sum of u_n e_n (D,) where the weights u (N,) need all the losses, and these losses.

    measure: directions (k, D) -> their losses (..., k). weigh: all of them (..., N) -> u (N,). The
    directions are drawn twice from the same place of the stream, never kept.
    """
    again = torch.Generator(generator.device)
    again.set_state(generator.get_state())
    seen = torch.cat([measure(e) for e in draw(count, len(w), generator, w)], -1)
    weights, total, at = weigh(seen).to(w.dtype), torch.zeros_like(w), 0
    for e in draw(count, len(w), again, w):
        total += weights[at : at + len(e)] @ e
        at += len(e)
    return total, seen


def _rand(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of numbers uniform in [0, 1)."""
    for start in range(0, count, BLOCK):
        block = torch.rand(BLOCK, dim, generator=generator, dtype=like.dtype, device=like.device)
        yield block[: count - start]
