"""Minibatches: a fresh permutation of the rows every epoch, drawn from the seed.

A dataset that is ``fresh`` has new rows at every step instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sa.params import stream
from sa.types import Batch


@dataclass(frozen=True, eq=False)
class Batches:
    """The minibatch of every step.

    Args:
        train: all training rows, (n, ...); (n, networks, ...) if ``stacked``.
        size: number of rows in a minibatch, >= 1; None takes all rows at every step.
        seeds: one seed for each network; it decides the order of that network's rows.
        stacked: True if several networks train together. Each one sees the same rows as it would
            see if it trained alone.

    """

    train: Batch
    size: int | None
    seeds: tuple[int, ...]
    stacked: bool = False
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, step: int) -> Batch:
        """Return the minibatch of a step; steps count from 0."""
        n, size = self.train.rows, self.size
        if size is None or size >= n:
            return self.train
        epoch, at = divmod(step, n // size)
        return self._select(self._order(epoch)[at * size : (at + 1) * size])

    def _order(self, epoch: int) -> Tensor:
        """Return the order of all rows in an epoch: (n,), or (n, networks) if stacked.

        It is computed once for each epoch.
        """
        if epoch not in self._orders:
            self._orders.clear()
            streams = [stream(s, "batches", epoch) for s in self.seeds]
            each = [torch.randperm(self.train.rows, generator=g) for g in streams]
            self._orders[epoch] = torch.stack(each, 1) if self.stacked else each[0]
        return self._orders[epoch]

    def _select(self, index: Tensor) -> Batch:
        """Return the rows with these numbers, (rows,), or (rows, networks) if stacked."""
        at: tuple[Tensor, ...] = (index.to(self.train.inputs.device),)
        if self.stacked:
            at = *at, torch.arange(index.shape[1], device=at[0].device)
        return Batch(self.train.inputs[at], self.train.targets[at])


def drawn(draw: Callable[[torch.Generator], Batch], seed: int, step: int) -> Batch:
    """Return new rows, which depend on the seed and the step alone.

    Args:
        draw: draws the rows of one step from a generator.
        seed: seed of the rows, the same for all steps.
        step: number of the step, >= 0.

    """
    return draw(stream(seed, "rows", step))


def side_by_side(each: Sequence[Callable[[int], Batch]], step: int) -> Batch:
    """Return the rows of a step of several networks, (n, networks, ...), as each sees alone."""
    rows = [batches(step) for batches in each]
    return Batch(*(torch.stack(parts, 1) for parts in zip(*rows, strict=True)))
