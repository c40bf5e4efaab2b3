"""Losses of a chain of fully connected layers and steps at many points at once."""

import torch
from torch import Tensor

from sa.flips import chain
from sa.network.structure import Structure
from sa.params import blocks
from sa.types import Batch, Params

CACHE, CACHE_ROWS = 1 << 20, 1024
"""Bytes and rows of one chunk of a chain: about a core's second-level cache."""


def losses(s: Structure, stack: Params, shared: Params, batch: Batch, memory: int) -> Tensor:
    """Return the mean losses (points,), float64, at the points of a stack.

    Features come first and are computed in place: layer 1 of k points is one matrix product
    (k units, inputs) x (inputs, rows), and what follows stays in buffers of about the cache's size,
    which every chunk uses again. Rows are summed chunk by chunk.

    Args:
        s: a chain whose every map is fully connected and followed by its step (`Structure.plain`).
        stack: parameters that differ, with the points first.
        shared: parameters that all points have in common.
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
    buffers = [like.new_empty(k * max(widths) * rows) for _ in range(2)]  # in and out, in turn
    out = torch.zeros(points, dtype=torch.float64, device=like.device)
    for start, stop in blocks(batch.rows, rows):
        part = batch.part(start, stop)
        x = part.inputs.flatten(1).T.contiguous()
        targets = part.targets.T.contiguous() if s.quadratic else part.targets
        for low, high in blocks(points, k):
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
    """W z (points, out, rows) into a buffer; W (points, out, in) or shared, z likewise."""
    out, rows = w.shape[-2], z.shape[-1]
    into = buffer[: points * out * rows].view(points, out, rows)
    if len(z) == 1 and w.dim() == 3:  # layer 1: all points in one product
        torch.mm(w.reshape(-1, w.shape[2]), z[0], out=into.view(-1, rows))
        return into
    return torch.bmm(w.expand(points, -1, -1), z.expand(points, -1, -1), out=into)


def _column_losses(z: Tensor, targets: Tensor, structure: Structure) -> Tensor:
    """Losses (points,) float64 summed over the rows of outputs (points, outputs, rows), used up."""
    if structure.quadratic:  # the norm sums at most CACHE_ROWS squares before float64 does
        norms = torch.linalg.vector_norm(z.sub_(targets), dim=2)
        return norms.double().square_().sum(1) / z.shape[1]
    rows = z.transpose(1, 2).flatten(0, 1)
    return structure.criterion(rows, targets.repeat(len(z))).view(len(z), -1).double().sum(1)
