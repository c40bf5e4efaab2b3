"""Data-parallel training on one node: each step's rows are split over processes, the ranks.

Rank 0 is the run: it alone steps, evaluates and writes. The other ranks have the same network and
data. At each step rank 0 sends them the number of the step and the point. They compute the gradient
of their rows, and wait for the next step.
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

    At each `Problem.batch` rank 0 tells the other ranks the step. One estimate must follow, which
    all ranks compute together.
    """

    def __init__(self, rank: int, world: int, port: int = 0):
        if Path("/sys/class/net/lo").exists():  # the name of a host may not lead to it
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.rank, self.world = rank, world
        self.store = dist.TCPStore("127.0.0.1", port, None, rank == 0, wait_for_workers=False)

    def join(self, device: str) -> None:
        """Wait for the other ranks, which must have started."""
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        ring = dist.PrefixStore("ring", self.store)
        dist.init_process_group(
            backend, store=ring, rank=self.rank, world_size=self.world, timeout=_PATIENCE
        )

    def tell(self, step: int) -> None:
        """Tell the other ranks the next step; a negative one ends them. Rank 0 calls this."""
        dist.broadcast(torch.tensor([step]), 0)

    def hear(self) -> int:
        """Return the next step that rank 0 tells; negative at the end. Other ranks call this."""
        number = torch.tensor([_OVER])
        dist.broadcast(number, 0)
        return int(number)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors of rank 0 into those of all ranks."""
        _together(tensors, lambda flat: dist.broadcast(flat, 0))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors of all ranks by their sums over the ranks."""
        _together(tensors, dist.all_reduce)

    def part(self, rows: int) -> tuple[int, int]:
        """Return start and stop of this rank's rows; parts differ by at most one row."""
        return rows * self.rank // self.world, rows * (self.rank + 1) // self.world


def _together(tensors: Sequence[Tensor], act: Callable[[Tensor], object]) -> None:
    """Call ``act`` with one vector of all tensors of a dtype, and copy it back into them."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in some])
        act(flat)
        for t, new in zip(some, flat.split([t.numel() for t in some]), strict=True):
            t.copy_(new.view_as(t))


@contextmanager
def lead(world: int, command: Sequence[str], device: str) -> Iterator[Ring]:
    """Start the other ranks, and end them when the ``with`` ends.

    Args:
        world: how many ranks there are, with rank 0.
        command: the command of a rank; its rank, ``world`` and the port are added behind it.
        device: where the tensors are.

    Raises:
        Lost: a rank has ended before the run.

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
    except RuntimeError:  # gloo and nccl raise it if a rank is gone
        _lost(others, patience=2.0)
        raise
    finally:
        for process in others:
            process.kill()
            process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost(others: Sequence[subprocess.Popen], patience: float = 0.0) -> None:
    """Raise Lost if a rank has ended, or ends within ``patience`` seconds."""
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
    """Compute the gradient of this rank's rows of each step, until rank 0 ends; not for rank 0."""
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
    """Copy the frozen parameters of rank 0, which may be a parent's, to all ranks."""
    problem.ranks.share(list(problem.frozen.values()))
