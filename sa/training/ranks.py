"""Data-parallel training on one node: each step's rows are split over processes, the ranks.

Rank 0 is the run: it alone steps, evaluates and writes. The others have the same network and data;
at each step they are told its number and the point, give the gradient of their rows, and wait.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass as plain
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sa.objective.objective import Objective
from sa.objective.problem import Problem
from sa.params import stream
from sa.types import Batch, Estimator, Moment, Params, RowLoss

_PATIENCE = timedelta(days=30)  # an evaluation may take long; a dead rank is noticed at once
_OVER = -1


class Lost(Exception):
    """A rank ended before the run did; the message says which and how."""


class Ring:
    """The ranks of one run, which sum and share tensors; rank 0 holds the port they meet at."""

    def __init__(self, rank: int, world: int, port: int = 0):
        if Path("/sys/class/net/lo").exists():  # one node: never through a name that may not lead
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.rank, self.world = rank, world
        self.store = dist.TCPStore("127.0.0.1", port, None, rank == 0, wait_for_workers=False)

    def join(self, device: str) -> None:
        """Wait for the others; all of them are known to have started."""
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        ring = dist.PrefixStore("ring", self.store)
        dist.init_process_group(
            backend, store=ring, rank=self.rank, world_size=self.world, timeout=_PATIENCE
        )

    def told(self, step: int = _OVER) -> int:
        """The step that rank 0 says comes next; negative: none."""
        number = torch.tensor([step])
        dist.broadcast(number, 0)
        return int(number)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """What rank 0 has, in place, in all."""
        _together(tensors, lambda flat: dist.broadcast(flat, 0))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """The sum over the ranks, in place, in all."""
        _together(tensors, dist.all_reduce)

    def part(self, rows: int) -> tuple[int, int]:
        """Start and stop of this rank's rows: equal parts, to one row."""
        return rows * self.rank // self.world, rows * (self.rank + 1) // self.world


def _together(tensors: Sequence[Tensor], act: Callable[[Tensor], object]) -> None:
    """Act on all tensors of a dtype as one vector."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in some])
        act(flat)
        for t, new in zip(some, flat.split([t.numel() for t in some]), strict=True):
            t.copy_(new.view_as(t))


@plain
class Shared(Problem):
    """A problem of which this process is one rank.

    On rank 0 each ``batch`` is followed by one estimate, which the other ranks make too.
    """

    ring: Ring | None = None

    def begin(self) -> None:
        """Give all ranks what does not move: it may be a parent's."""
        assert self.ring
        self.ring.share(list(self.frozen.values()))

    def batch(self, step: int) -> Batch:
        """All rows of a step, whose number the other ranks are told."""
        assert self.ring
        self.ring.told(step)
        return super().batch(step)

    def objective(self, batch: Batch) -> Objective:
        """The loss on the batch, this rank's rows of which it evaluates."""
        assert self.ring
        start, stop = self.ring.part(batch.rows)
        mine = super().objective(batch)
        mine.batch, mine.first = batch.part(start, stop), start
        kept = list(self.buffers.values())
        return _Part(**vars(mine), ring=self.ring, start=start, total=batch.rows, kept=kept)


@plain
class _Part(Objective):
    """start: where this rank's rows begin among all ``total``. kept: the network's buffers."""

    ring: Ring | None = None
    start: int = 0
    total: int = 1
    kept: Sequence[Tensor] = ()

    def value_and_grad(
        self,
        params: Params,
        rows: RowLoss | None = None,
        passes: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Params]:
        """Loss and gradient of the whole batch at rank 0's point, to rounding as of one process."""
        assert self.ring
        with torch.no_grad():
            self.ring.share([*params.values(), *self.kept])
        value, grad = super().value_and_grad(params, rows, passes, generator)
        weight = self.batch.rows / self.total
        self.ring.add([t.mul_(weight) for t in (value, *grad.values())])
        if self._seen is not None:  # the outputs of all rows, as one process sees them
            point, versions, parts = self._seen
            mine = torch.cat(parts)
            every = mine.new_zeros(self.total, *mine.shape[1:])
            every[self.start : self.start + len(mine)] = mine
            self.ring.add([every])
            self._seen = point, versions, [every]
        return value, grad


@contextmanager
def lead(world: int, command: Sequence[str], device: str) -> Iterator[Ring]:
    """Start the other ranks, each by the command and its rank, their number and the port.

    They end with this. Raises Lost where one ends sooner.
    """
    ring = Ring(0, world)
    words = [[*command, str(r), str(world), str(ring.store.port)] for r in range(1, world)]
    others = [subprocess.Popen(w, stdin=subprocess.DEVNULL) for w in words]
    try:
        while not ring.store.check([f"rank {r}" for r in range(1, world)]):
            _lost(others)
            time.sleep(0.05)
        ring.join(device)
        yield ring
        ring.told(_OVER)
        for process in others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
    except RuntimeError:  # of gloo or nccl, if a rank is gone
        _lost(others, patience=2.0)
        raise
    finally:
        for process in others:
            process.kill()
            process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost(others: Sequence[subprocess.Popen], patience: float = 0.0) -> None:
    end = time.monotonic() + patience
    while True:
        for rank, process in enumerate(others, 1):
            code = process.poll()
            if code is not None:
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
                raise Lost(
                    f"rank {rank} of {len(others) + 1} ended {how} before the run did; repeat the "
                    "command to go on from the last checkpoint"
                )
        if time.monotonic() >= end:
            return
        time.sleep(0.05)


def serve(problem: Problem, estimator: Estimator, steps: int, ring: Ring) -> None:
    """A rank that is not 0: until rank 0 ends, the gradient of its rows of each step."""
    mine, device = Shared(**vars(problem), ring=ring), problem.task.device
    ring.store.set(f"rank {ring.rank}", "here")
    ring.join(device)
    try:
        mine.begin()
        params = {k: p.clone() for k, p in problem.params.items()}
        while (step := ring.told()) != _OVER:
            generator = stream(problem.seed, "estimator", step, device=device)
            at = Moment(step, steps)
            objective = mine.objective(problem.batch(step))
            estimator(objective, params, estimator.init(params), generator, at)
    finally:
        dist.destroy_process_group()
