"""Random directions in weight space, drawn in fixed blocks so that no batching changes them."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 64
"""Directions drawn by one call of the generator: part of the stream's definition."""


def gaussian(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of standard normal directions, count in all."""
    for start in range(0, count, BLOCK):
        block = torch.randn(BLOCK, dim, generator=generator, dtype=like.dtype, device=like.device)
        yield block[: count - start]


def orthogonal(count: int, dim: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Blocks (k, dim) of uniformly random directions of length sqrt(dim), orthogonal in sets.

    E[e e'] = I as for normal ones; each set of dim satisfies sum e e' = dim I exactly. Sets are
    independent of each other; the last may be cut short.
    """
    groups = max(1, BLOCK // dim)  # whole orthogonal sets a block; a lone one where dim is large
    for start in range(0, count, groups * dim):
        k = min(dim, count - start)  # less than a whole set only where there is but one
        shape = groups, dim, k if groups == 1 else dim
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=like.device)
        q, r = torch.linalg.qr(draw)
        q *= torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)  # Haar
        block = (q.mT * math.sqrt(dim)).reshape(-1, dim).to(like.dtype)
        yield block[: count - start]
