"""Where the points of a sweep run: here, in a bounded pool of processes, or as SLURM arrays.

A driver only starts points and follows their folders: it may be killed at any time, and repeating
its command goes on. Whether a run is good is read from its folder, never from a scheduler.
"""

import builtins
import contextlib
import fcntl
import fnmatch
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from sa import record

POLL = 1.0  # seconds between two looks at the folders
LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT",
}  # fmt: skip
"""States of SLURM in which a job may still compute something."""


class LaunchError(Exception):
    """The place where points should run cannot take them; nothing was left half-submitted."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its place, content id, the overrides that make it, its configuration.

    overrides: the words that vary, for people; words: all that compose it.
    """

    index: int
    run_id: str
    overrides: list[str]
    config: dict[str, Any]
    words: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What distinguishes it, for a line on the terminal."""
        return " ".join(self.overrides) or "the defaults"


@dataclass(frozen=True)
class Inline:
    """One point after another, in this process."""

    __pydantic_config__ = {"extra": "forbid"}


@dataclass(frozen=True)
class Local:
    """A pool of at most ``workers`` processes on this machine, each computing points in turn.

    workers: None for as many as there are CPUs for their threads. points_per_job: points a process
    computes before it ends, so that imports are paid once; None chooses.
    """

    __pydantic_config__ = {"extra": "forbid"}
    workers: Annotated[int, Gt(0)] | None = None
    points_per_job: Annotated[int, Gt(0)] | None = None


@dataclass(frozen=True)
class Slurm:
    """Arrays of jobs through submitit; needs no accounting database.

    time: minutes a job may take. memory_gb: of one job; cpus, gpus: of each of its processes, of
    which a run with ``processes`` starts its own, all on one node. parallel: jobs of one array at
    once. points_per_job: points a job computes in turn; None chooses. signal_seconds: how long
    before the time limit a job is told to save and requeue itself, at most a third of it; requeue:
    whether it does, and whether SLURM may requeue it after a preemption. setup: shell lines before
    it. extra: any other option of sbatch, e.g. {nodelist: n1}.
    """

    __pydantic_config__ = {"extra": "forbid"}
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    time: Annotated[int, Gt(0)] = 60
    cpus: Annotated[int, Gt(0)] = 1
    gpus: Annotated[int, Ge(0)] = 0
    memory_gb: Annotated[float, Gt(0)] | None = None
    parallel: Annotated[int, Gt(0)] = 256
    points_per_job: Annotated[int, Gt(0)] | None = None
    signal_seconds: Annotated[int, Gt(0)] = 90
    requeue: bool = True
    setup: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


Place = Inline | Local | Slurm


# The plan


def shape(
    swept: dict[str, list[tuple[str, ...]]],
    zip: Sequence[str] = (),
    points: Sequence[Any] = (),
    exclude: Sequence[Any] = (),
) -> list[list[str]]:
    """The words of every point: the product of all values, but for what is zipped and excluded.

    swept: by key, its words. zip: keys that go together, of equal lengths. points: listed points,
    words in one string or a mapping each, crossed with the rest. exclude: likewise, points that
    have all of the words are left out; * in a word stands for anything. Raises LaunchError for
    what does not fit.
    """
    varied = ", ".join(k for k, values in swept.items() if len(values) > 1) or "none"
    unknown = [k for k in zip if k not in swept]
    if unknown:
        raise LaunchError(f"sweep.zip: {unknown[0]} is not swept; swept are: {varied}")
    lengths = {k: len(swept[k]) for k in zip}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{k} has {n}" for k, n in lengths.items())
        raise LaunchError(f"sweep.zip: the values must be as many: {told}")
    axes = [values for k, values in swept.items() if k not in zip]
    if zip:
        axes.append([sum(some, ()) for some in builtins.zip(*(swept[k] for k in zip), strict=True)])
    if points:
        axes.append([tuple(_words(p)) for p in points])
    made = [[w for some in product for w in some] for product in itertools.product(*axes)]
    left_out = [_words(e) for e in exclude]
    kept = [
        p for p in made if not any(all(w in p or fnmatch.filter(p, w) for w in e) for e in left_out)
    ]
    there = {w.split("=")[0] for p in made for w in p}
    for word in (w for words in left_out for w in words):
        if word.split("=")[0] not in there:
            raise LaunchError(f"sweep.exclude: {word}: {word.split('=')[0]} is not swept: {varied}")
    if not kept:
        raise LaunchError(f"sweep.exclude leaves none of the {len(made)} points")
    return kept


def _words(point: Any) -> list[str]:
    if isinstance(point, dict):
        return [f"{k}={v}" for k, v in point.items()]
    words = shlex.split(str(point))
    if not words or not all("=" in w for w in words):
        raise LaunchError(f"{point!r}: expected KEY=VALUE KEY=VALUE, of one point")
    return words


def points(
    configs: Sequence[dict[str, Any]],
    overrides: Sequence[list[str]],
    words: Sequence[list[str]] | None = None,
) -> list[Point]:
    """One point an identity: configurations that differ in bookkeeping only are one run."""
    found: dict[str, Point] = {}
    for config, told, every in zip(configs, overrides, words or overrides, strict=True):
        key = record.run_id(config)
        found.setdefault(key, Point(len(found), key, told, config, every))
    return list(found.values())


def sweep_name(plan: Sequence[Point]) -> str:
    """The name the configuration gives, or one made of the points: same points, same name."""
    named = plan[0].config["sweep"]["name"]
    return named or "sweep-" + record.run_id({"points": sorted(p.run_id for p in plan)})


def todo(root: Path, plan: Sequence[Point]) -> list[Point]:
    """The points without a result."""
    return [p for p in plan if record.read_result(root, p.run_id) is None]


def dropped(root: Path, name: str, plan: Sequence[Point]) -> int:
    """How many points a sweep of that name has that the plan has not; 0 where there is none.

    A damaged manifest has none either: the plan replaces it.
    """
    if not (record.sweep_folder(root, name) / "manifest.jsonl").exists():
        return 0
    try:
        _, there = record.read_manifest(root, name)
    except record.RecordError:
        return 0
    return len({p["run_id"] for p in there} - {p.run_id for p in plan})


def freeze(root: Path, name: str, plan: Sequence[Point]) -> None:
    """Write the manifest, and the configuration of every point that is still to run."""
    for point in todo(root, plan):
        record.freeze(root, point.config)
    entries = [{"index": p.index, "run_id": p.run_id, "overrides": p.overrides} for p in plan]
    first = plan[0].config
    about = {
        "name": name,
        "argv": sys.argv[1:],
        "description": first.get("description"),
        "figure": first.get("figure") or [],
        "objective": first.get("objective"),
        "expectations": first.get("expectations") or [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    record.write_manifest(root, name, entries, about)


def cost(root: Path, plan: Sequence[Point]) -> float | None:
    """Seconds a point takes, from those of the plan that have ended; None where none has."""
    known = [record.read_result(root, p.run_id) for p in plan]
    spent = [float(r["seconds"]) for r in known if r and isinstance(r.get("seconds"), int | float)]
    return sum(spent) / len(spent) if spent else None


def chunks(
    root: Path, plan: Sequence[Point], left: Sequence[Point], size: int | None, jobs: int
) -> list[list[Point]]:
    """The points a job computes in turn, in order; size None chooses.

    A job pays some four seconds before its first point. Where points of the plan have ended, and
    their cost is known, it gets two minutes of work, but there are 16 jobs if there can be; else
    the points are spread over ``jobs``.
    """
    if size is None:
        each = cost(root, plan)
        most = math.ceil(len(left) / (jobs if each is None else 16))
        size = most if each is None else max(1, min(most, int(120 / max(each, 0.01))))
    return [list(left[i : i + size]) for i in range(0, len(left), size)]


# Following


class Board:
    """What has ended, a line a point, and a bar on a terminal."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.total, self.done = total, 0
        self.failed: dict[str, str] = {}
        self.console = Console(soft_wrap=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("runs", total=total)

    def ended(self, point: Point, result: dict[str, Any] | None, error: str | None = None) -> None:
        """Say how a point ended: with a result, or an error."""
        if result is None:
            error = error or "no result"
            self.failed[point.run_id] = error
            told = f"FAILED: {error.splitlines()[-1] if error else ''}"
        else:
            told = f"{_told(point.config, result)}  ({result['seconds']:.1f} s)"
        self.done += 1
        self.bar.advance(self.task)
        self.console.print(
            f"{self.done:>4}/{self.total}  {point.label:<48} {told}",
            highlight=False, markup=False,
        )  # fmt: skip


def _told(config: dict[str, Any], result: dict[str, Any]) -> str:
    key = config.get("objective") or "value"
    value = result.get(key)
    return f"{key} {value:.4g}" if isinstance(value, int | float) else str(result.get("status"))


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
    board, began = Board(len(queue)), time.time()
    with board.bar:
        while queue and not _enough(board, most):
            _stop_if_cancelled(folder, began)
            point = queue.pop(0)
            try:
                board.ended(point, execute(point.config))
            except record.Busy:
                queue.append(point)
                time.sleep(POLL)
            except Exception as error:  # a point's failure is recorded and the sweep goes on
                board.ended(point, None, str(error) or repr(error))
    return board.failed


CANCELLED = "cancelled"
"""The file in a sweep's folder that tells its drivers to stop: touched by `sa.sweep cancel`."""


def _stop_if_cancelled(folder: Path, began: float) -> None:
    mark = folder / CANCELLED
    if mark.exists() and mark.stat().st_mtime > began:
        raise LaunchError("cancelled by `sa.sweep cancel`; repeat the command to go on")


def _enough(board: Board, most: int | None) -> bool:
    return most is not None and len(board.failed) >= most


def local(
    root: Path, plan: Sequence[Point], place: Local, folder: Path, most: int | None = None
) -> dict[str, str]:
    """Run the missing points in a bounded pool of processes; run id -> what failed."""
    left = todo(root, plan)
    threads = max([1, *(int(p.config.get("threads") or 1) for p in left)])
    workers = place.workers or max(1, _cpus() // (threads * processes(left)))
    size = place.points_per_job
    queue = chunks(root, plan, left, size, max(workers, min(4 * workers, len(left))))
    board, alive = Board(len(left)), dict[subprocess.Popen, list[Point]]()
    began = time.time()
    with board.bar:
        try:
            while queue or alive:
                _stop_if_cancelled(folder, began)
                while queue and len(alive) < workers and not _enough(board, most):
                    some = queue.pop(0)
                    alive[_worker(root, some, folder, threads)] = some
                if not alive:
                    break
                time.sleep(POLL / 4)
                for process, some in list(alive.items()):
                    code = process.poll()
                    for point in list(some):
                        result = record.read_result(root, point.run_id)
                        if result is None and code is None:
                            continue
                        some.remove(point)
                        board.ended(point, result, None if result else _why(root, point, code))
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


def processes(some: Sequence[Point]) -> int:
    """The most processes that one of the points computes with."""
    return max([1, *(int(p.config.get("processes") or 1) for p in some)])


def _worker(root: Path, some: Sequence[Point], folder: Path, threads: int) -> subprocess.Popen:
    env = scrubbed(dict(os.environ)) | _paths(folder) | {"OMP_NUM_THREADS": str(threads)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(root, some), env=env, stdout=quiet, stderr=quiet, stdin=quiet)


def command(root: Path, some: Sequence[Point]) -> list[str]:
    """What computes frozen points, one after another."""
    folders = [str((root / "runs" / p.run_id).resolve()) for p in some]
    return [sys.executable, "-m", "sa.run", "--frozen", *folders]


def _why(root: Path, point: Point, code: int | None) -> str:
    """Why a point of a process that ended has no result, in its record too."""
    status = record.load_status(root / "runs" / point.run_id)
    if status.get("state") in ("failed", "skipped", "interrupted"):
        return str(status.get("error"))
    how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"code {code}"
    return record.mark(root, point.run_id, f"its process ended with {how} before a result")


def _cpus() -> int:
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(given) if given and given.isdigit() else len(os.sched_getaffinity(0))


def scrubbed(env: dict[str, str]) -> dict[str, str]:
    """The environment without what an enclosing SLURM job left: it would bend a child's resources.

    SLURM_CONF stays, the cluster's address.
    """
    bent = re.compile(r"(SLURM|SLURMD|SBATCH|SALLOC|SRUN|PMI[0-9X]*)_")
    return {k: v for k, v in env.items() if k == "SLURM_CONF" or not bent.match(k)}


def _paths(folder: Path) -> dict[str, str]:
    """Where the code of a sweep is: its snapshot, if it has one."""
    code = folder / "code"
    return {"PYTHONPATH": str(code.resolve())} if code.is_dir() else {}


def snapshot(folder: Path, packages: Sequence[Path]) -> None:
    """Copy the code that the points run, so that edits after the submission change nothing."""
    code = folder / "code"
    if code.exists():
        return
    temp = folder / f".tmp-code-{os.getpid()}"
    skip = shutil.ignore_patterns("__pycache__", ".*")
    for package in packages:
        shutil.copytree(package, temp / package.name, ignore=skip)
    temp.replace(code)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One driver at a time plans and submits a sweep; the others wait for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".driver").open("w")
    except OSError as error:
        raise record.unrooted(folder.parent.parent, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# SLURM


def need_slurm() -> None:
    """Raise LaunchError where there is no SLURM to submit to."""
    if shutil.which("sbatch") is None:
        raise LaunchError(
            "hydra/launcher=slurm: there is no SLURM on this machine (sbatch is not found). "
            "hydra/launcher=local runs the same sweep in a pool here; `launchers/one_node_slurm.sh "
            "up DIR` starts a private one-node SLURM"
        )


def jobs(folder: Path) -> list[dict[str, Any]]:
    """The jobs a sweep has submitted: {job, runs, submitted}, oldest first."""
    path = folder / "jobs.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.strip()]


def queue(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Job -> (state, reason) of those that SLURM still knows; all of them, pending arrays too."""
    bases = sorted({i.split("_")[0] for i in ids})
    found: dict[str, tuple[str, str]] = {}
    if not bases or shutil.which("squeue") is None:
        return found
    told = subprocess.run(
        ["squeue", "-h", "-r", "-t", "all", "-o", "%F_%K|%i|%T|%r", "-j", ",".join(bases)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if told.returncode and "Invalid job id" not in told.stderr:
        raise LaunchError(f"squeue: {told.stderr.strip()}")
    for line in told.stdout.splitlines():
        array, single, state, reason = line.strip().split("|")
        for key in (array, single):
            found[key] = (state, reason)
    return found


def flying(folder: Path) -> set[str]:
    """The runs of a sweep that a live job will compute."""
    every = jobs(folder)
    known = queue([j["job"] for j in every])
    alive = {j["job"] for j in every if known.get(j["job"], ("", ""))[0] in LIVE}
    return {r for j in every if j["job"] in alive for r in j["runs"]}


def submit(folder: Path, root: Path, place: Slurm, work: Sequence[Sequence[Point]]) -> None:
    """Submit arrays, as large as the cluster takes them, and note their jobs; all or none.

    Raises LaunchError with SLURM's own words.
    """
    import submitit

    logs = folder / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    most = _array_limit()
    made: list[dict[str, Any]] = []
    before, there = dict(os.environ), set(logs.iterdir())
    os.environ.clear()
    own = {"OMP_NUM_THREADS": str(place.cpus), "SA_REQUEUE": str(int(place.requeue))}
    os.environ.update(scrubbed(before) | _paths(folder) | own)
    try:
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=1000)
        world = processes([p for some in work for p in some])
        executor.update_parameters(**_parameters(place, folder.name, world))
        for at in range(0, len(work), most):
            part = work[at : at + most]
            submitted = executor.map_array(_become, [command(root, some) for some in part])
            made += [
                {"job": job.job_id, "runs": [p.run_id for p in some], "submitted": time.time()}
                for job, some in zip(submitted, part, strict=True)
            ]
    except Exception as error:  # submitit's and SLURM's: a wrong partition, a full queue
        if made:
            cancel([str(m["job"]) for m in made])
        for left in set(logs.iterdir()) - there:
            left.unlink()
        said = (x for x in str(error).splitlines() if x.strip() and "subprocess" not in x)
        words = list(dict.fromkeys(said))
        raise LaunchError(
            f"hydra/launcher=slurm: {' '.join(words[-2:])}; {_hint(words)}"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    with (folder / "jobs.jsonl").open("a") as file:
        file.writelines(json.dumps(m) + "\n" for m in made)


def _hint(words: Sequence[str]) -> str:
    """What to type instead of what SLURM refused."""
    if any("partition" in x for x in words):
        told = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True)
        known = ", ".join(dict.fromkeys(told.stdout.split()))
        return f"hydra.launcher.partition=NAME; there are: {known}"
    return (
        "settings: hydra.launcher.{partition,account,qos,time,cpus,gpus,memory_gb}; "
        "hydra/launcher=local runs the same sweep in a pool here; `launchers/one_node_slurm.sh up "
        "DIR` starts a private one-node SLURM"
    )


def _become(words: list[str]) -> None:
    """Replace the job's process: signals and the exit code are the worker's own."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until the worker listens to it
    os.execv(words[0], words)


def _parameters(place: Slurm, name: str, world: int) -> dict[str, Any]:
    named = {
        "partition": place.partition, "qos": place.qos, "account": place.account,
        "constraint": place.constraint, "gpus_per_node": place.gpus * world or None,
        "mem": f"{int(place.memory_gb * 1024)}M" if place.memory_gb else None,
    }  # fmt: skip
    return {k: v for k, v in named.items() if v is not None} | {
        "job_name": name[:64],
        "time": place.time,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": place.cpus * world,
        "array_parallelism": place.parallel,
        "signal_delay_s": min(place.signal_seconds, 20 * place.time),
        "setup": list(place.setup),
        "additional_parameters": {
            "requeue" if place.requeue else "no-requeue": True,
            **place.extra,
        },
    }


def _array_limit() -> int:
    told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", told.stdout)
    return max(1, int(found.group(1)) - 1) if found else 1000


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; those that are over already are passed by."""
    if ids:
        subprocess.run(["scancel", *ids], capture_output=True, text=True)


def follow(
    root: Path, plan: Sequence[Point], folder: Path, most: int | None = None
) -> dict[str, str]:
    """Wait until every submitted point has ended one way or another; run id -> what failed."""
    mine = {p.run_id: p for p in plan}
    job_of = {r: j for j in jobs(folder) for r in j["runs"]}  # the latest submission of each
    left = {k: mine[k] for k in (p.run_id for p in todo(root, plan)) if k in job_of}
    board, gone, stopped = Board(len(left)), dict[str, int](), False
    looked, known = 0.0, dict[str, tuple[str, str]]()
    with board.bar:
        while left:
            if time.monotonic() - looked > max(2 * POLL, 0.002 * len(left)):
                try:
                    known, looked = queue([job_of[k]["job"] for k in left]), time.monotonic()
                except (LaunchError, subprocess.TimeoutExpired):  # a scheduler that is restarting
                    time.sleep(POLL)
                    continue
            for key, point in list(left.items()):
                result = record.read_result(root, key)
                state, reason = known.get(job_of[key]["job"], ("unknown to SLURM", ""))
                if result is None and state in LIVE:
                    gone.pop(key, None)
                    continue
                if result is None:
                    gone[key] = gone.get(key, 0) + 1
                    if gone[key] < 3:  # the last files may still be on their way
                        continue
                del left[key]
                error = None if result else _lost(root, key, job_of[key], state, reason, folder)
                board.ended(point, result, error)
            if _enough(board, most) and not stopped:
                cancel([job_of[k]["job"] for k in left])
                stopped = True
            time.sleep(POLL)
    return board.failed


def _lost(root: Path, key: str, job: dict[str, Any], state: str, reason: str, folder: Path) -> str:
    """Why a point whose job is over has no result; noted in its record where that says nothing."""
    status = record.load_status(root / "runs" / key)
    fresh = float(status.get("started") or 0) >= job["submitted"] - 5
    if fresh and status.get("state") in ("failed", "skipped", "interrupted"):
        return str(status.get("error"))
    told = f"SLURM: {state}" + (f" ({reason})" if reason not in ("", "None") else "")
    told += f", job {job['job']}"
    for path in (folder / "slurm").glob(f"{job['job']}_*_log.err"):  # before the worker began
        said = [x for x in path.read_text(errors="replace").splitlines() if x.strip()]
        if said and not fresh:
            told += f"; {path}: {said[-1]}"
    return record.mark(root, key, told)


# The report


def report(root: Path, name: str) -> int:
    """Collect, draw and write the page, in a process of its own: reading needs no torch."""
    words = [sys.executable, "-m", "sa.sweep", "report", name, "--root", str(root)]
    return subprocess.run(words, env=os.environ | {"MPLBACKEND": "Agg"}).returncode
