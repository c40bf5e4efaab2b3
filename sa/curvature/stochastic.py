"""Traces and spectral densities from random vectors, for maps too large to diagonalise."""

import math

import torch
from torch import Tensor

from sa.curvature.solve import Map


def signs(draws: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return vectors (draws, D) of independent +-1 entries, with D, dtype, device of like (D,)."""
    bits = torch.randint(2, (draws, len(like)), generator=generator, device=like.device)
    return bits.to(like.dtype) * 2 - 1


def trace(
    product: Map, like: Tensor, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """Return an unbiased estimate of the trace, and its standard error (Hutchinson 1990).

    The estimate is the mean of v'Hv over random v of +-1. The variance of one draw is
    2 (|H|_F^2 - sum_i H_ii^2).

    Args:
        product: the map H.
        like: (D,), gives the dtype and the device.
        draws: number of draws, >= 2; each costs one product.
        generator: draws the vectors.

    """
    each = []
    for _ in range(draws):
        v = signs(1, like, generator)
        each.append(float((v * product(v)).double().sum()))
    values = torch.tensor(each, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(draws)


def density(
    product: Map, like: Tensor, steps: int, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the density of the spectrum as nodes (n,), ascending, and weights (n,) of sum 1.

    This is stochastic Lanczos quadrature (Golub & Welsch 1969; Ubaru, Chen & Saad 2017) with full
    reorthogonalisation. The moments v'H^p v/D of each draw are exact for p up to 2 steps - 1. Their
    mean over draws is an unbiased estimate of tr H^p / D.

    Args:
        product: the map H.
        like: (D,), gives the dtype and the device.
        steps: number of Lanczos steps of a draw; each costs one product.
        draws: number of draws.
        generator: draws the vectors.

    """
    nodes, weights = [], []
    dim = len(like)
    for _ in range(draws):
        v = signs(1, like, generator) / math.sqrt(dim)
        basis, diagonal, offdiagonal = v, list[float](), list[float]()
        for step in range(min(steps, dim)):
            w = product(v)
            diagonal.append(float((w * v).double().sum()))
            for _ in range(2):
                w = w - (w @ basis.T) @ basis
            length = float(w.double().norm())
            tiny = 1e-10 if w.dtype == torch.float64 else 1e-5
            if length <= tiny * max(map(abs, diagonal)) or step == min(steps, dim) - 1:
                break  # the space is invariant, or this is the last step
            offdiagonal.append(length)
            v = w / length
            basis = torch.cat([basis, v])
        t = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if offdiagonal:
            off = torch.tensor(offdiagonal, dtype=torch.float64)
            t += torch.diag(off, 1) + torch.diag(off, -1)
        values, s = torch.linalg.eigh(t)
        nodes.append(values)
        weights.append(s[0].square() / draws)
    at, w = torch.cat(nodes), torch.cat(weights)
    order = at.argsort()
    return at[order], w[order]
