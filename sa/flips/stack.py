"""Losses at many points at once, of a chain of fully connected layers and steps."""

import torch
from torch import Tensor

from sa.flips import chain
from sa.network.structure import Structure
from sa.params import ranges
from sa.types import Batch, Params

CACHE, CACHE_ROWS = 1 << 20, 1024
"""The most bytes and rows of one chunk: about the second-level cache of a core."""


def losses(s: Structure, stack: Params, shared: Params, batch: Batch, memory: int) -> Tensor:
    """Return the mean losses (points,), float64, at the points of a stack.

    Arrays have units before rows. So layer 1 of k points is one matrix product, (k units, inputs) x
    (inputs, rows). Later layers write into two buffers of about the size of the cache, which every
    chunk uses again.

    Args:
        s: a chain whose every map is fully connected and followed by its step (`Structure.plain`).
        stack: the parameters that differ between points, each (points, ...).
        shared: the parameters that are the same at all points.
        batch: the rows.
        memory: bytes for intermediate results.

    """
    points = len(next(iter(stack.values())))
    every = s.frozen | shared | stack
    like = every[s.links[0].weight]
    widths = [every[link.weight].shape[-2] for link in s.links]
    rows = min(batch.rows, CACHE_ROWS)
    budget = min(CACHE, memory) // like.element_size()
    k = max(1, min(points, budget // (rows * max(widths))))
    rows = max(1, min(rows, budget // (k * max(widths))))
    buffers = [like.new_empty(k * max(widths) * rows) for _ in range(2)]  # layers use them in turn
    out = torch.zeros(points, dtype=torch.float64, device=like.device)
    for start, stop in ranges(batch.rows, rows):
        part = batch.part(start, stop)
        x = part.inputs.flatten(1).T.contiguous()
        targets = part.targets.T.contiguous() if s.quadratic else part.targets
        for low, high in ranges(points, k):
            z = x.unsqueeze(0)
            for i, link in enumerate(s.links):
                names = [n for n in (link.weight, link.bias) if n]
                w, *b = [stack[n][low:high] if n in stack else every[n] for n in names]
                z = _affine(w, z, buffers[i % 2], high - low)
                if b:
                    z.add_(b[0].unsqueeze(-1))
                if link.step:
                    z = chain.step_(z, link.step)
            out[low:high] += _column_losses(z, targets, s)
    return out / batch.rows


def _affine(w: Tensor, z: Tensor, buffer: Tensor, points: int) -> Tensor:
    """Return W z (points, out, rows), written into a buffer.

    Args:
        w: (points, out, in), or (out, in) if all points share it.
        z: (points, in, rows), or (1, in, rows) if all points share it.
        buffer: a vector that is long enough.
        points: number of points.

    """
    out, rows = w.shape[-2], z.shape[-1]
    into = buffer[: points * out * rows].view(points, out, rows)
    if len(z) == 1 and w.dim() == 3:  # layer 1: all points in one product
        torch.mm(w.reshape(-1, w.shape[2]), z[0], out=into.view(-1, rows))
        return into
    return torch.bmm(w.expand(points, -1, -1), z.expand(points, -1, -1), out=into)


def _column_losses(z: Tensor, targets: Tensor, structure: Structure) -> Tensor:
    """Return the sums over rows of the losses, (points,), float64.

    Args:
        z: the outputs (points, outputs, rows), which are overwritten.
        targets: (outputs, rows) for the squared error, else those of the batch.
        structure: the chain, with its criterion.

    """
    if structure.quadratic:  # the norm sums at most CACHE_ROWS squares before float64 does
        norms = torch.linalg.vector_norm(z.sub_(targets), dim=2)
        return norms.double().square_().sum(1) / z.shape[1]
    rows = z.transpose(1, 2).flatten(0, 1)
    return structure.criterion(rows, targets.repeat(len(z))).view(len(z), -1).double().sum(1)
