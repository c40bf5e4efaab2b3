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
    """Blocks (k, dim), k <= dim, of uniformly random orthogonal directions of length sqrt(dim).

    E[e e'] = I as for normal ones; a full block satisfies sum e e' = dim I exactly. Blocks are
    independent of each other.
    """
    for start in range(0, count, dim):
        k = min(dim, count - start)
        draw = torch.randn(dim, k, generator=generator, dtype=torch.float64, device=like.device)
        q, r = torch.linalg.qr(draw)
        q *= torch.where(r.diagonal() < 0, -1.0, 1.0)  # Haar: the sign LAPACK leaves to itself
        yield (q.T * math.sqrt(dim)).to(like.dtype)
