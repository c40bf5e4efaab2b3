"""Which rows a step is computed on: a fresh permutation every epoch, from the seed and the step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sa.params import stream
from sa.types import Batch


@dataclass(frozen=True, eq=False)
class Batches:
    """The rows of every step.

    Args:
        train: all rows (n, ...); of replicas (n, networks, ...).
        size: rows of one step, >= 1; None for all.
        seeds: seeds of the order of the rows, one for each network.
        stacked: whether rows are of replicas; each sees the rows that it would see alone.

    """

    train: Batch
    size: int | None
    seeds: tuple[int, ...]
    stacked: bool = False
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, step: int) -> Batch:
        """Return the rows of one step."""
        n, size = self.train.rows, self.size
        if size is None or size >= n:
            return self.train
        epoch, at = divmod(step, n // size)
        return self._picked(self._order(epoch)[at * size : (at + 1) * size])

    def _order(self, epoch: int) -> Tensor:
        """The epoch's order of all rows (n,), of replicas (n, networks); kept until the next."""
        if epoch not in self._orders:
            self._orders.clear()
            streams = [stream(s, "batches", epoch) for s in self.seeds]
            each = [torch.randperm(self.train.rows, generator=g) for g in streams]
            self._orders[epoch] = torch.stack(each, 1) if self.stacked else each[0]
        return self._orders[epoch]

    def _picked(self, index: Tensor) -> Batch:
        """Rows by their numbers (rows,), of replicas (rows, networks)."""
        at: tuple[Tensor, ...] = (index.to(self.train.inputs.device),)
        if self.stacked:
            at = *at, torch.arange(index.shape[1], device=at[0].device)
        return Batch(self.train.inputs[at], self.train.targets[at])
