"""Random directions in weight space, drawn in chunks of a fixed size.

The size is fixed so that the numbers drawn do not depend on memory. All directions have E e = 0 and
E e e' = I, so (1/N) sum (g.e) e estimates g with the right scale.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sa.estimator import _finite, _scale
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import Estimate, Moment, Numbers, Params

CHUNK = 64
"""Directions drawn by one call of the generator; another number gives other directions."""

Draw = Callable[[int, int, torch.Generator, Tensor], Iterator[Tensor]]
"""(count, dim, generator, like) -> chunks (k, dim) of directions, count in all."""


def gaussian(
    count: int, dim: int, generator: torch.Generator, like: Tensor, whole: bool = True
) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of standard normal directions, count in all.

    Args:
        count: number of directions.
        dim: D.
        generator: source of the random numbers.
        like: its dtype and device are those of the directions.
        whole: True draws a whole last chunk and leaves the rest of it out, so that what is drawn
            next does not depend on the count. False draws only what is used, which for a single
            direction is 20 times faster.

    """
    for start in range(0, count, CHUNK):
        rows = CHUNK if whole else min(CHUNK, count - start)
        chunk = torch.randn(rows, dim, generator=generator, dtype=like.dtype, device=like.device)
        yield chunk[: count - start]


def sphere(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of directions uniform on the sphere of radius sqrt(dim)."""
    for e in gaussian(count, dim, generator, like):
        yield e * (math.sqrt(dim) / e.norm(dim=1, keepdim=True))


def uniform(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of directions uniform in the cube [-sqrt(3), sqrt(3)]^dim."""
    for u in _rand(count, dim, generator, like):
        yield (2 * u - 1) * math.sqrt(3)


def two_point(
    count: int, dim: int, generator: torch.Generator, like: Tensor, skew: float = 0.0
) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of directions whose entries take two values, with variance 1.

    An entry is (1 + skew)/sqrt(1 + skew) with probability 1/(2 + skew), else -1/sqrt(1 + skew).
    skew = 0 is the Rademacher distribution.
    """
    for u in _rand(count, dim, generator, like):
        up = (u < 1 / (2 + skew)).to(u.dtype)
        yield (up * (2 + skew) - 1) / math.sqrt(1 + skew)


def orthogonal(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of random directions of length sqrt(dim), orthogonal in sets of dim.

    E[e e'] = I as for normal directions; each set satisfies sum e e' = dim I exactly. Sets are
    independent of each other. The last set may be cut short.
    """
    if not dim:
        yield like.new_zeros(count, 0)
        return
    groups = max(1, CHUNK // dim)  # whole orthogonal sets in a chunk, at least one
    for start in range(0, count, groups * dim):
        k = min(dim, count - start)  # only a set alone in its chunk may be cut short
        shape = groups, dim, k if groups == 1 else dim
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=like.device)
        q, r = torch.linalg.qr(draw)
        q *= torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)  # Haar measure
        chunk = (q.mT * math.sqrt(dim)).reshape(-1, dim).to(like.dtype)
        yield chunk[: count - start]


def resumable(
    draw: Draw, count: int, w: Tensor, generator: torch.Generator, objective: Objective,
    sums: dict[str, Tensor],
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the chunks of a draw; a killed run goes on after its last saved chunk.

    Args:
        draw: draws the directions.
        count: number of directions.
        w: the point (D,), for its size, dtype and device.
        generator: source of the random numbers.
        objective: keeps the saved chunks in ``partial``.
        sums: totals to which the caller adds each chunk, in place; they are saved too.

    """
    number, saved = objective.partial.take()
    done = saved.get("done", 0)
    if saved:
        generator.set_state(saved["generator"])
        for name, total in sums.items():
            total.copy_(saved[name])
    for e in draw(count - done, len(w), generator, w):
        yield e
        done += len(e)
        now = {"done": done, "generator": generator.get_state()}
        objective.partial.keep(number, now | sums)


def losses(objective: Objective, params: Params, points: Tensor) -> Tensor:
    """Return the losses (k,), float64, at points (k, D)."""
    return objective.values(unflatten(points, params))


def pairs(
    objective: Objective, params: Params, generator: torch.Generator, at: Moment, draw: Draw,
    samples: int, sigma: float, kurtosis: float | None,
) -> Estimate:  # fmt: skip
    """Return (1/(2 N sigma)) sum (f(w + sigma e) - f(w - sigma e)) e over N pairs, in 2N + 1 evals.

    On a linear loss E (g.e)^2 |e|^2 = |g|^2 (D + kurtosis - 1). So the relative variance is
    (D + kurtosis - 2)/N, and the expected cosine |E g^|/sqrt(E |g^|^2) is
    sqrt(N/(N + D + kurtosis - 2)). ``flat`` is the share of pairs whose two losses are equal. A
    pair with a loss that is not finite is left out: N counts the other pairs.

    Args:
        objective: the loss f.
        params: the point w.
        generator: source of the directions.
        at: where in a training the call is made.
        draw: draws the directions e.
        samples: N.
        sigma: length of a step, in the units of the weights.
        kurtosis: E e_i^4 of independent entries: 3 for gaussian ones, 1 for Rademacher ones.
            Directions on the sphere obey the law of 1. None for no expected cosine.

    """
    _scale.require("sigma", sigma, params, at)
    dim, w = size(params), flatten(params)
    total, flat = torch.zeros_like(w), torch.zeros((), dtype=torch.int64)
    sound = torch.zeros_like(flat)
    sums = {"total": total, "flat": flat, "sound": sound}
    for e in resumable(draw, samples, w, generator, objective, sums):
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
    """Return sum_n u_n e_n (D,) for weights u that depend on all the losses, and those losses.

    The directions are not stored: they are drawn twice, from the same generator state.

    Args:
        draw: draws the directions e_n.
        count: N.
        w: the point (D,), for its size, dtype and device.
        generator: source of the directions.
        measure: directions (k, D) -> their losses (..., k).
        weigh: all losses (..., N) -> weights u (N,).

    """
    again = torch.Generator(generator.device)
    again.set_state(generator.get_state())
    measured = torch.cat([measure(e) for e in draw(count, len(w), generator, w)], -1)
    weights, total, at = weigh(measured).to(w.dtype), torch.zeros_like(w), 0
    for e in draw(count, len(w), again, w):
        total += weights[at : at + len(e)] @ e
        at += len(e)
    return total, measured


def _rand(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield chunks (k, dim) of numbers uniform in [0, 1), count rows in all."""
    for start in range(0, count, CHUNK):
        chunk = torch.rand(CHUNK, dim, generator=generator, dtype=like.dtype, device=like.device)
        yield chunk[: count - start]
