"""Points on this machine: one after another, or in a bounded pool of processes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from sa.launch.plan import Point, chunks, command, paths, processes, scrubbed, todo
from sa.launch.progress import POLL, Board, Cancelled, enough
from sa.record import files, run


@dataclass(frozen=True)
class Inline:
    """One point after another, in this process."""

    __pydantic_config__ = {"extra": "forbid"}


@dataclass(frozen=True)
class Local:
    """A pool of at most ``workers`` processes on this machine, each computing points in turn.

    Args:
        workers: processes at once; null for as many as there are CPUs for their threads.
        points_per_job: points a process computes before it ends, so that imports are paid once;
            null chooses.

    """

    __pydantic_config__ = {"extra": "forbid"}
    workers: Annotated[int, Gt(0)] | None = None
    points_per_job: Annotated[int, Gt(0)] | None = None


def inline(
    root: Path,
    plan: Sequence[Point],
    execute: Callable[[dict[str, Any]], dict[str, Any]],
    folder: Path,
    most: int | None = None,
) -> dict[str, str]:
    """Run the missing points one after another; run id -> what failed. Never raises for a point.

    A point that another process is computing is left to it and waited for at the end. most: stop
    after so many failures.
    """
    queue = todo(root, plan)
    cancelled = Cancelled(folder)
    with Board(len(queue)) as board, cancelled.interrupting():
        while queue and not enough(board, most):
            cancelled.stop()
            point = queue.pop(0)
            try:
                result = execute(point.config)
            except files.Busy:
                queue.append(point)
                time.sleep(POLL)
            except Exception as error:  # a point's failure is recorded and the sweep goes on
                board.ended(point, None, str(error) or repr(error))
            else:
                board.ended(point, result)
    return board.failed


def local(
    root: Path, plan: Sequence[Point], place: Local, folder: Path, most: int | None = None
) -> dict[str, str]:
    """Run the missing points in a bounded pool of processes; run id -> what failed."""
    left = todo(root, plan)
    threads = max([1, *(int(p.config.get("threads") or 1) for p in left)])
    workers = place.workers or max(1, _cpus() // (threads * processes(left)))
    size = place.points_per_job
    queue = chunks(root, plan, left, size, max(workers, min(4 * workers, len(left))))
    alive, cancelled = dict[subprocess.Popen, list[Point]](), Cancelled(folder)
    with Board(len(left)) as board:
        try:
            while queue or alive:
                cancelled.stop()
                while queue and len(alive) < workers and not enough(board, most):
                    some = queue.pop(0)
                    alive[_worker(root, some, folder, threads)] = some
                if not alive:
                    break
                time.sleep(POLL / 4)
                for process, some in list(alive.items()):
                    code = process.poll()
                    for point in list(some):
                        result = run.read_result(root, point.run_id)
                        if result is None and code is None:
                            continue
                        some.remove(point)
                        why = None if result else _why(root, point, process.pid, code)
                        board.ended(point, result, why)
                    if code is not None:
                        del alive[process]
        except BaseException:
            for process in alive:
                process.terminate()
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            raise
    return board.failed


def _worker(root: Path, some: Sequence[Point], folder: Path, threads: int) -> subprocess.Popen:
    env = scrubbed(dict(os.environ)) | paths(folder) | {"OMP_NUM_THREADS": str(threads)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(root, some), env=env, stdout=quiet, stderr=quiet, stdin=quiet)


def _why(root: Path, point: Point, pid: int, code: int | None) -> str:
    """Why a point of a process that ended has no result, in its record too."""
    folder = root / "runs" / point.run_id
    who: dict[str, Any] = {"host": os.uname().nodename, "pid": pid}
    told = run.reason(folder, **who)  # an earlier attempt's reason is none of this one
    if told is not None:
        return told
    how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"code {code}"
    return run.mark(root, point.run_id, f"its process ended with {how} before a result", **who)


def _cpus() -> int:
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(given) if given and given.isdigit() else len(os.sched_getaffinity(0))
