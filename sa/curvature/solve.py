"""Leading eigenpairs of a symmetric map, from products: a search, and an update of known pairs."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Leading eigenpairs, the largest algebraic value first.

    Args:
        values: (k,), float64, on the CPU.
        vectors: (k, D), orthonormal rows, flattened as by `sa.params.flatten`.
        residuals: (k,), |H x - value x|, float64, on the CPU.

    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


Map = Callable[[Tensor], Tensor]
"""A symmetric map: vectors (k, D) -> their products (k, D)."""

EXTRA = 16
"""How many vectors a Lanczos basis has beyond twice the wanted pairs; a restart keeps half."""


def _length(row: Tensor) -> float:
    """Return the length of a row, computed in float64."""
    return float(torch.linalg.vector_norm(row, dtype=torch.float64))


def orthonormal(rows: Tensor, against: Tensor | None = None, scale: float = 0.0) -> Tensor:
    """Return orthonormal rows (r, D) that extend the span of ``against`` by the rows, r <= k.

    This is Gram-Schmidt in order. It repeats a row until the row keeps more than half of its
    length. A row is dropped if its new part is shorter than 1e-10 (1e-5 in float32) of the longest
    row, or of ``scale``.

    Args:
        rows: (k, D).
        against: orthonormal rows, or None.
        scale: a length.

    """
    small = 1e-10 if rows.dtype == torch.float64 else 1e-5
    least = small * max(float(rows.norm(dim=1).max()) if len(rows) else 0.0, scale)
    out, count = torch.empty_like(rows), 0
    spans = [rows[:0] if against is None else against, out[:0]]
    for row in rows:
        before, length = math.inf, _length(row)
        while least < length < before / 2:  # two passes are mostly enough (Kahan; Parlett 1980)
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
    """Return the k algebraically largest eigenpairs, by thick-restart block Lanczos.

    A block of b vectors finds every copy of an eigenvalue of multiplicity up to b; a single vector
    misses copies. All vectors are reorthogonalised twice (Wu & Simon 2000).

    Args:
        product: the map H.
        k: number of pairs.
        start: (b, D), the first block.
        generator: draws new vectors if the search finds an invariant space.
        tol: the search ends if all residuals |H x - theta x| are at most tol times |theta|, or
            times 1e-6 of the largest |theta| if that is larger.
        spare: number of further pairs to return, which may not have converged.
        most: the search also ends after most * k products. Then the residuals show the error.

    """
    dim = start.shape[1]
    if k > dim:
        raise ValueError(f"there are {dim} eigenpairs, {k} were asked for; expected k <= {dim}")
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
        tail = (block @ w.T).double().cpu()  # the part outside the basis
        residuals = (tail @ s[old:]).norm(dim=0)
        scale = torch.maximum(values.abs(), 1e-6 * values.abs().max())
        settled = len(values) >= k and bool((residuals[:k] <= tol * scale[:k]).all())
        invariant = len(block) == 0 and len(basis) < dim
        news = len(known) < k or not torch.allclose(known, values[:k])
        if invariant and not (settled and not news):
            known = values[:k]  # other copies may lie outside: search until none is new
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


def overlap(one: Tensor, other: Tensor) -> float:
    """Return |U V'|_F^2/k, the mean squared cosine of two spaces of orthonormal rows (k, D).

    It is 1 for equal spaces and 0 for orthogonal ones. Of spaces of unequal sizes, k is the
    smaller. The squared chordal distance, divided by k, is 1 minus this number.
    """
    return float((one @ other.T).double().square().sum()) / min(len(one), len(other))


def follow(product: Map, space: Tensor, rounds: int = 1) -> Pairs:
    """Return the pairs of a space after some rounds of subspace iteration (Rutishauser 1970).

    Each round takes one block product. It computes the Ritz values and vectors X of the old span,
    and then an orthonormal basis of (H + s I) X. The shift s is the smallest one that makes all
    Ritz values >= 0. Without it, directions of large negative curvature would grow.

    The values are one round older than the vectors, and the residuals are those of the old span.
    The space needs one spare vector for each direction whose curvature is below minus the last
    wanted eigenvalue, because such a direction occupies a vector until the shift includes it.

    Args:
        product: the map H.
        space: (c, D), orthonormal rows.
        rounds: number of rounds, >= 1.

    """
    for _ in range(rounds):
        w = product(space)
        small = (space @ w.T).double()
        values, s = torch.linalg.eigh((small + small.T) / 2)
        values, s = values.flip(0), s.flip(1).T.to(space)
        x, hx = s @ space, s @ w
        residuals = (hx - values.to(hx)[:, None] * x).norm(dim=1).double()
        q = orthonormal(hx + float((-values.min()).clamp(min=0)) * x)
        if len(q) < len(x):  # a map of lower rank: keep old directions
            q = torch.cat([q, orthonormal(x, q)[: len(x) - len(q)]])
        space = q
    return Pairs(values.cpu(), space, residuals.cpu())
