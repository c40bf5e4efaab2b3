"""Points as arrays of SLURM jobs: submitted, followed, cancelled, and why one was lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from sa.launch.defaults import defaults, minutes
from sa.launch.plan import LaunchError, Point, command, paths, processes, scrubbed, todo
from sa.launch.progress import POLL, Board, enough
from sa.record import files, lock, telling
from sa.record import run as record

LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT",
}  # fmt: skip
"""States of SLURM in which a job may still compute something."""


@dataclass(frozen=True)
class Slurm:
    """Arrays of jobs through submitit; needs no accounting database.

    A setting that is null is left to SLURM and to the user's defaults, SBATCH_PARTITION and its
    like; one that is set overrules them.

    Args:
        partition: null for your default, SBATCH_PARTITION or SLURM's own; qos, account and
            constraint likewise.
        qos: quality of service; null for your default.
        account: the one that pays; null for your default.
        constraint: features of the nodes; null for your default.
        time: minutes that a job may take; null for SBATCH_TIMELIMIT, or 60.
        cpus: CPUs of each process of a run; a run with ``processes`` starts its own, all on one
            node.
        gpus: GPUs of each process of a run; null for your default.
        memory_gb: memory of a job, in gigabytes; null for your default.
        parallel: jobs of one array at once.
        points_per_job: points that a job computes in turn; null chooses.
        signal_seconds: how long before the time limit a job is told to save and requeue itself, at
            most a third of it.
        requeue: whether a job requeues itself, and whether SLURM may requeue it after a
            preemption.
        setup: shell lines before the command, e.g. [module load python].
        extra: any other option of sbatch, e.g. {nodelist: n1}.

    """

    __pydantic_config__ = {"extra": "forbid"}
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    time: Annotated[int, Gt(0)] | None = None
    cpus: Annotated[int, Gt(0)] = 1
    gpus: Annotated[int, Ge(0)] | None = None
    memory_gb: Annotated[float, Gt(0)] | None = None
    parallel: Annotated[int, Gt(0)] = 256
    points_per_job: Annotated[int, Gt(0)] | None = None
    signal_seconds: Annotated[int, Gt(0)] = 90
    requeue: bool = True
    setup: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None


def need() -> None:
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
    words = ["squeue", "-h", "-r", "-t", "all", "-o", "%F_%K|%i|%T|%r", "-j", ",".join(bases)]
    told = _ask(*words, timeout=60)
    if told.returncode and "Invalid job id" not in told.stderr:
        raise LaunchError(f"squeue: {told.stderr.strip()}")
    for line in told.stdout.splitlines():
        array, single, state, reason = line.strip().split("|")
        for key in (array, single):
            found[key] = (state, reason)
    return found


def _ask(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM without the user's defaults, which may filter what it says."""
    own = ("SQUEUE_", "SCANCEL_", "SINFO_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=env)


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
    theirs, notes = defaults(before, vars(place))
    for note in notes:
        telling.note_once(note)
    limit = place.time or minutes(theirs.get("SBATCH_TIMELIMIT", "60"))
    os.environ.clear()
    own = {"OMP_NUM_THREADS": str(place.cpus), "SA_REQUEUE": str(int(place.requeue))}
    os.environ.update(scrubbed(before) | theirs | paths(folder) | own)
    try:
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=1000)
        world = processes([p for some in work for p in some])
        executor.update_parameters(**_parameters(place, folder.name, world, limit))
        for at in range(0, len(work), most):
            part = work[at : at + most]
            submitted = executor.map_array(_become, [command(root, some) for some in part])
            made += [
                {"job": job.job_id, "runs": [p.run_id for p in some], "submitted": time.time()}
                for job, some in zip(submitted, part, strict=True)
            ]
        lines = "".join(json.dumps(m) + "\n" for m in [*jobs(folder), *made])
        files.write_text(folder / "jobs.jsonl", lines)
    except BaseException as error:
        cancel([str(m["job"]) for m in made])
        for left in set(logs.iterdir()) - there:
            left.unlink()
        if isinstance(error, files.RecordError) or not isinstance(error, Exception):
            raise
        # submitit's and SLURM's: a wrong partition, a full queue
        said = (x for x in str(error).splitlines() if x.strip() and "subprocess" not in x)
        words = list(dict.fromkeys(said))
        raise LaunchError(
            f"hydra/launcher=slurm: {' '.join(words[-2:])}; {_hint(words)}"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def _hint(words: Sequence[str]) -> str:
    """What to type instead of what SLURM refused."""
    if any("partition" in x for x in words):
        told = _ask("sinfo", "-h", "-o", "%R")
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
    os.environ[lock.OURS] = os.environ["SLURM_JOB_ID"]
    os.execv(words[0], words)


def _parameters(place: Slurm, name: str, world: int, limit: int) -> dict[str, Any]:
    named = {
        "partition": place.partition, "qos": place.qos, "account": place.account,
        "constraint": place.constraint, "gpus_per_node": (place.gpus or 0) * world or None,
        "mem": f"{int(place.memory_gb * 1024)}M" if place.memory_gb else None,
    }  # fmt: skip
    return {k: v for k, v in named.items() if v is not None} | {
        "job_name": name[:64],
        "time": limit,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": place.cpus * world,
        "array_parallelism": place.parallel,
        "signal_delay_s": min(place.signal_seconds, 20 * limit),
        "setup": list(place.setup),
        "additional_parameters": {
            "requeue" if place.requeue else "no-requeue": True,
            **(place.extra or {}),
        },
    }


def _array_limit() -> int:
    told = _ask("scontrol", "show", "config")
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", told.stdout)
    return max(1, int(found.group(1)) - 1) if found else 1000


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; those that are over already are passed by."""
    if ids:
        _ask("scancel", *ids)


def ask(ids: Sequence[str]) -> None:
    """Tell the workers of jobs, by USR1, that they are cancelled: they say so in their records."""
    if ids:
        _ask("scancel", "--signal=USR1", *ids)


def follow(
    root: Path, plan: Sequence[Point], folder: Path, most: int | None = None
) -> dict[str, str]:
    """Wait until every submitted point has ended one way or another; run id -> what failed."""
    mine = {p.run_id: p for p in plan}
    job_of = {r: j for j in jobs(folder) for r in j["runs"]}  # the latest submission of each
    left = {k: mine[k] for k in (p.run_id for p in todo(root, plan)) if k in job_of}
    gone, stopped = dict[str, int](), False
    looked, known = 0.0, dict[str, tuple[str, str]]()
    with Board(len(left)) as board:
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
            if enough(board, most) and not stopped:
                cancel([job_of[k]["job"] for k in left])
                stopped = True
            time.sleep(POLL)
    return board.failed


def reason_of(run: Path, job: str) -> str | None:
    """Return why a run ended, if that is known of this job; not the reason of an earlier one."""
    known = (record.reason(run, array=job), record.reason(run, job=job))  # alone it is no array
    return next((x for x in known if x is not None), None)


def _lost(root: Path, key: str, job: dict[str, Any], state: str, reason: str, folder: Path) -> str:
    """Why a point whose job is over has no result; noted in its record where that says nothing."""
    run, number = root / "runs" / key, str(job["job"])
    own = reason_of(run, number)
    if own is not None:
        return own
    status = record.load_status(run)
    began = number in (status.get("array"), status.get("job"))
    told = f"SLURM: {state}" + (f" ({reason})" if reason not in ("", "None") else "")
    told += f", job {number}"
    for path in (folder / "slurm").glob(f"{number}_*_log.err"):  # before the worker began
        said = [x for x in path.read_text(errors="replace").splitlines() if x.strip()]
        if said and not began:
            told += f"; {path}: {said[-1]}"
    return record.mark(root, key, told, array=number)
