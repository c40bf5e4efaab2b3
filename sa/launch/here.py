"""Points run on this machine: one after another, or in a pool of processes."""

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

from sa.launch.plan import Point, chunks, command, processes, scrubbed, todo
from sa.launch.progress import POLL, Cancelled, Outcomes
from sa.launch.snapshot import paths
from sa.record import files, run


@dataclass(frozen=True)
class Inline:
    """One point after another, in this process."""

    __pydantic_config__ = {"extra": "forbid"}


@dataclass(frozen=True)
class Local:
    """A pool of processes on this machine; each computes points one after another.

    Args:
        workers: processes at once, >= 1; null for as many as the CPUs allow, given the threads
            of each.
        points_per_job: points that a process computes before it ends, >= 1; more save the time
            of imports. null chooses.

    """

    __pydantic_config__ = {"extra": "forbid"}
    workers: Annotated[int, Gt(0)] | None = None
    points_per_job: Annotated[int, Gt(0)] | None = None


def inline(
    root: Path,
    plan: Sequence[Point],
    execute: Callable[[dict[str, Any]], dict[str, Any]],
    folder: Path,
    max_failures: int | None = None,
) -> dict[str, str]:
    """Run the missing points one after another; return run id -> error of those that failed.

    A point that another process is computing comes last, and this waits for it.

    Args:
        root: the folder of all runs and sweeps.
        plan: all points.
        execute: computes the run of a configuration and returns its result.
        folder: the folder of the sweep.
        max_failures: how many points may fail before no more are started; null for no limit.

    """
    queue = todo(root, plan)
    cancelled = Cancelled(folder)
    with Outcomes(len(queue), max_failures) as outcomes, cancelled.interrupting():
        while queue and not outcomes.too_many_failed:
            cancelled.stop()
            point = queue.pop(0)
            try:
                result = execute(point.config)
            except files.Busy:
                queue.append(point)
                time.sleep(POLL)
            except Exception as error:  # one point failed; the sweep goes on
                outcomes.ended(point, None, str(error) or repr(error))
            else:
                outcomes.ended(point, result)
    return outcomes.failed


def local(
    root: Path, plan: Sequence[Point], place: Local, folder: Path, max_failures: int | None = None
) -> dict[str, str]:
    """Run the missing points in a pool of processes; return run id -> error of those that failed.

    Args:
        root: the folder of all runs and sweeps.
        plan: all points.
        place: the settings of the pool.
        folder: the folder of the sweep.
        max_failures: how many points may fail before no more are started; null for no limit.

    """
    left = todo(root, plan)
    threads = max([1, *(int(p.config.get("threads") or 1) for p in left)])
    workers = place.workers or max(1, _cpus() // (threads * processes(left)))
    size = place.points_per_job
    queue = chunks(root, plan, left, size, max(workers, min(4 * workers, len(left))))
    alive, cancelled = dict[subprocess.Popen, list[Point]](), Cancelled(folder)
    with Outcomes(len(left), max_failures) as outcomes:
        try:
            while queue or alive:
                cancelled.stop()
                while queue and len(alive) < workers and not outcomes.too_many_failed:
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
                        outcomes.ended(point, result, why)
                    if code is not None:
                        del alive[process]
        except BaseException:
            for process in alive:
                process.terminate()
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            raise
    return outcomes.failed


def _worker(root: Path, some: Sequence[Point], folder: Path, threads: int) -> subprocess.Popen:
    """Start a process that computes some points, with the sweep's copy of the code if any."""
    env = scrubbed(dict(os.environ)) | paths(folder) | {"OMP_NUM_THREADS": str(threads)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(root, some), env=env, stdout=quiet, stderr=quiet, stdin=quiet)


def _why(root: Path, point: Point, pid: int, code: int | None) -> str:
    """Return why a point has no result although its process ended; note it in the record too."""
    folder = root / "runs" / point.run_id
    who: dict[str, Any] = {"host": os.uname().nodename, "pid": pid}
    recorded = run.reason(folder, **who)  # the reason of an earlier process does not count
    if recorded is not None:
        return recorded
    how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"code {code}"
    return run.mark(root, point.run_id, f"its process ended with {how} before a result", **who)


def _cpus() -> int:
    """Return how many CPUs this process may use: those of its SLURM job, if it is in one."""
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(given) if given and given.isdigit() else len(os.sched_getaffinity(0))
