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
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sa.objective.problem import Problem
from sa.objective.ranks import Ranks
from sa.params import stream
from sa.types import Estimator, Moment

_PATIENCE = timedelta(days=30)  # an evaluation may take long; a dead rank is noticed at once
_OVER = -1


class Lost(Exception):
    """A rank ended before the run did; the message says which and how."""


class Ring(Ranks):
    """The ranks of one run, which sum and share tensors; rank 0 holds the port they meet at.

    Rank 0 tells the step, and each `Problem.batch` of it is followed by one estimate, which the
    other ranks make too.
    """

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

    def tell(self, step: int) -> None:
        """Tell the other ranks which step comes next; negative: none. Of rank 0."""
        dist.broadcast(torch.tensor([step]), 0)

    def hear(self) -> int:
        """Return the step that rank 0 says comes next; negative: none. Of the other ranks."""
        number = torch.tensor([_OVER])
        dist.broadcast(number, 0)
        return int(number)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the tensors of rank 0, in place."""
        _together(tensors, lambda flat: dist.broadcast(flat, 0))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the sums of their tensors, in place."""
        _together(tensors, dist.all_reduce)

    def part(self, rows: int) -> tuple[int, int]:
        """Return start and stop of this rank's rows: equal parts, to one row."""
        return rows * self.rank // self.world, rows * (self.rank + 1) // self.world


def _together(tensors: Sequence[Tensor], act: Callable[[Tensor], object]) -> None:
    """Act on all tensors of a dtype as one vector."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in some])
        act(flat)
        for t, new in zip(some, flat.split([t.numel() for t in some]), strict=True):
            t.copy_(new.view_as(t))


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
        ring.tell(_OVER)
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
    device = problem.forward.numerics.device
    problem.ranks = ring
    ring.store.set(f"rank {ring.rank}", "here")
    ring.join(device)
    try:
        begin(problem)
        params = {k: p.clone() for k, p in problem.params.items()}
        while (step := ring.hear()) != _OVER:
            generator = stream(problem.seed, "estimator", step, device=device)
            objective = problem.objective(problem.batches(step), step)
            estimator(objective, params, estimator.init(params), generator, Moment(step, steps))
    finally:
        dist.destroy_process_group()


def begin(problem: Problem) -> None:
    """Give all ranks what does not move: it may be a parent's."""
    problem.ranks.share(list(problem.frozen.values()))
