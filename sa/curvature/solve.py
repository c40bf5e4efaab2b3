"""Leading eigenpairs of a symmetric map that is known by its products: found, and followed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Leading eigenpairs, the largest algebraic value first.

    values (k,) float64; vectors (k, D), orthonormal rows, flattened as `flatten` does; residuals
    (k,) |H x - value x|, float64. Values and residuals are on the CPU.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


Map = Callable[[Tensor], Tensor]
"""(k, D) -> (k, D): the products of a symmetric map with k vectors."""

EXTRA = 16
"""Vectors of a Lanczos basis beyond twice the pairs wanted; a restart keeps half of them."""


def _length(row: Tensor) -> float:
    return float(torch.linalg.vector_norm(row, dtype=torch.float64))


def orthonormal(rows: Tensor, against: Tensor | None = None, scale: float = 0.0) -> Tensor:
    """Orthonormal rows (r, D), r <= k, in order: of what (k, D) adds to the span of ``against``.

    Gram-Schmidt, each row until a pass leaves more than half of it. Rows that add less than 1e-10
    (float64; 1e-5 in float32) of the longest one, or of ``scale``, are left out.
    """
    small = 1e-10 if rows.dtype == torch.float64 else 1e-5
    least = small * max(float(rows.norm(dim=1).max()) if len(rows) else 0.0, scale)
    out, count = torch.empty_like(rows), 0
    spans = [rows[:0] if against is None else against, out[:0]]
    for row in rows:
        before, length = math.inf, _length(row)
        while least < length < before / 2:  # twice is enough, mostly (Kahan; Parlett 1980)
            for span in spans:
                row = row - (span @ row) @ span
            before, length = length, _length(row)
        if length > least:
            out[count] = row / length
            count += 1
            spans[1] = out[:count]
    return out[:count]


def top(
    product: Map,
    k: int,
    start: Tensor,
    *,
    generator: torch.Generator,
    tol: float = 1e-3,
    spare: int = 0,
    most: int = 100,
) -> Pairs:
    """The k algebraically largest eigenpairs, by thick-restart block Lanczos (Wu & Simon 2000).

    start: (b, D), the first block. A block of b vectors finds every copy of an eigenvalue up to
    b-fold; one vector misses them. Reorthogonalised in full, twice. Ends where all residuals
    |H x - theta x| are at most tol |theta| (but 1e-6 tol of the largest), or after most * k
    products; the pairs hold their residuals. spare: so many further pairs, as far as they have
    come, are there too.
    """
    dim = start.shape[1]
    if k > dim:
        raise ValueError(f"there are {dim} eigenpairs, {k} were asked for")
    block = orthonormal(start)
    width, spare = len(block), min(spare, dim - k)
    room = min(dim, 2 * k + spare + width + EXTRA)
    held = start.new_empty(min(dim, room + width), dim)
    basis, t = held[:0], torch.zeros(0, 0, dtype=torch.float64)
    done, known = 0, start.new_zeros(0)
    while True:
        old, basis = len(basis), held[: len(basis) + len(block)]
        basis[old:] = block
        w = product(block)
        done += len(block)
        along = w @ basis.T  # (b, all)
        new = along.T.double().cpu()
        grown = torch.zeros(len(basis), len(basis), dtype=torch.float64)
        grown[:old, :old], grown[:old, old:], grown[old:, :old] = t, new[:old], new[:old].T
        grown[old:, old:] = (new[old:] + new[old:].T) / 2
        t = grown
        values, s = torch.linalg.eigh(t)
        values, s = values.flip(0), s.flip(1)
        block = orthonormal(w - along @ basis, basis, float(values.abs().max()))
        tail = (block @ w.T).double().cpu()  # what leads out of the basis
        residuals = (tail @ s[old:]).norm(dim=0)
        scale = torch.maximum(values.abs(), 1e-6 * values.abs().max())
        settled = len(values) >= k and bool((residuals[:k] <= tol * scale[:k]).all())
        invariant = len(block) == 0 and len(basis) < dim
        news = len(known) < k or not torch.allclose(known, values[:k])
        if invariant and not (settled and not news):
            known = values[:k]  # other copies of them may lie outside: look until nothing is new
            draw = torch.randn(
                min(width, dim - len(basis)), dim,
                generator=generator, device=start.device, dtype=start.dtype,
            )  # fmt: skip
            block = orthonormal(draw, basis)
        elif settled or len(block) == 0 or done >= most * k:
            n = min(k + spare, len(values))
            return Pairs(values[:n], s[:, :n].T.to(start) @ basis, residuals[:n])
        if len(basis) + len(block) > room and len(basis) < dim - len(block):
            keep = min(len(basis) - 1, k + spare + max(width, EXTRA // 2))
            held[:keep] = s[:, :keep].T.to(start) @ basis  # restart; the new block's coupling to
            basis, t = held[:keep], torch.diag(values[:keep])  # it comes with its own products


def follow(product: Map, space: Tensor, rounds: int = 1) -> Pairs:
    """A space (c, D) brought up to date: one block product each round (Rutishauser 1970).

    Ritz values and vectors X of the old span, and the orthonormal span of (H + s I) X, s the least
    shift that leaves no Ritz value below 0: else directions of large negative curvature would grow.
    The values lag one round behind the vectors, which are in their order. The residuals are of the
    old span. Of directions of curvature below minus the last wanted no more than are spare columns
    may be there: they take columns of their own until the shift sees them.
    """
    for _ in range(rounds):
        w = product(space)
        small = (space @ w.T).double()
        values, s = torch.linalg.eigh((small + small.T) / 2)
        values, s = values.flip(0), s.flip(1).T.to(space)
        x, hx = s @ space, s @ w
        residuals = (hx - values.to(hx)[:, None] * x).norm(dim=1).double()
        q = orthonormal(hx + float((-values.min()).clamp(min=0)) * x)
        if len(q) < len(x):  # a map of lower rank: old directions fill up
            q = torch.cat([q, orthonormal(x, q)[: len(x) - len(q)]])
        space = q
    return Pairs(values.cpu(), space, residuals.cpu())
