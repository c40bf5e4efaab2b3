"""Points run as arrays of SLURM jobs: submit them, follow them, cancel them."""

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
from sa.launch.plan import LaunchError, Point, command, processes, scrubbed, todo
from sa.launch.progress import POLL, Outcomes
from sa.launch.snapshot import paths
from sa.record import files, lock, telling
from sa.record import run as record

LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT",
}  # fmt: skip
"""States in which a SLURM job may still compute something."""


@dataclass(frozen=True)
class Slurm:
    """Arrays of SLURM jobs, submitted by submitit; needs no accounting database.

    A setting overrules your default, e.g. the variable SBATCH_PARTITION. null keeps your default,
    or SLURM's own.

    Args:
        partition: partition of the cluster; null for your default.
        qos: quality of service; null for your default.
        account: account that is charged; null for your default.
        constraint: features that the nodes must have; null for your default.
        time: time limit of a job in minutes, > 0; null for SBATCH_TIMELIMIT, or 60.
        cpus: CPUs of each process of a run, > 0. A run with ``processes`` starts its processes on
            one node.
        gpus: GPUs of each process of a run, >= 0; null for your default.
        memory_gb: memory of a job in gigabytes, > 0; null for your default.
        parallel: how many jobs of one array may run at once, > 0.
        points_per_job: how many points a job computes one after another, > 0; null chooses.
        signal_seconds: how long before its time limit a job saves and requeues itself, in seconds,
            > 0; never more than a third of the limit.
        requeue: true lets a job requeue itself, and lets SLURM requeue it after a preemption.
        setup: shell lines before the command, e.g. [module load python].
        extra: other options of sbatch, e.g. {nodelist: n1}.

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
    """Raise LaunchError if this machine has no SLURM."""
    if shutil.which("sbatch") is None:
        raise LaunchError(
            "hydra/launcher=slurm: there is no SLURM on this machine (sbatch is not found). "
            "hydra/launcher=local runs the same sweep in a pool here; `launchers/one_node_slurm.sh "
            "up DIR` starts a private one-node SLURM"
        )


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the jobs that a sweep has submitted, oldest first: {job, runs, submitted}."""
    path = folder / "jobs.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.strip()]


def queue(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return job -> (state, reason) for the jobs that SLURM still knows."""
    bases = sorted({i.split("_")[0] for i in ids})
    found: dict[str, tuple[str, str]] = {}
    if not bases or shutil.which("squeue") is None:
        return found
    words = ["squeue", "-h", "-r", "-t", "all", "-o", "%F_%K|%i|%T|%r", "-j", ",".join(bases)]
    answer = _ask(*words, timeout=60)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise LaunchError(f"squeue: {answer.stderr.strip()}")
    for line in answer.stdout.splitlines():
        array, single, state, reason = line.strip().split("|")
        for key in (array, single):
            found[key] = (state, reason)
    return found


def _ask(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM without the user's defaults, which may filter its output."""
    filters = ("SQUEUE_", "SCANCEL_", "SINFO_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(filters)}
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=env)


def live_runs(folder: Path) -> set[str]:
    """Return the ids of a sweep's runs that a live job will compute."""
    every = jobs(folder)
    known = queue([j["job"] for j in every])
    alive = {j["job"] for j in every if known.get(j["job"], ("", ""))[0] in LIVE}
    return {r for j in every if j["job"] in alive for r in j["runs"]}


def submit(folder: Path, root: Path, place: Slurm, work: Sequence[Sequence[Point]]) -> None:
    """Submit arrays of jobs, and write the jobs to jobs.jsonl. All are submitted, or none.

    Args:
        folder: the folder of the sweep.
        root: the folder of all runs and sweeps.
        place: the settings of the jobs.
        work: the points of each job.

    Raises:
        LaunchError: SLURM refuses; the message quotes it.

    """
    import submitit

    logs = folder / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    most = _array_limit()
    submitted: list[dict[str, Any]] = []
    before, old_logs = dict(os.environ), set(logs.iterdir())
    users, notes = defaults(before, vars(place))
    for note in notes:
        telling.note_once(note)
    limit = place.time or minutes(users.get("SBATCH_TIMELIMIT", "60"))
    os.environ.clear()
    own = {"OMP_NUM_THREADS": str(place.cpus), "SA_REQUEUE": str(int(place.requeue))}
    os.environ.update(scrubbed(before) | users | paths(folder) | own)
    try:
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=1000)
        world = processes([p for some in work for p in some])
        executor.update_parameters(**_parameters(place, folder.name, world, limit))
        for at in range(0, len(work), most):
            part = work[at : at + most]
            array = executor.map_array(_become, [command(root, some) for some in part])
            submitted += [
                {"job": job.job_id, "runs": [p.run_id for p in some], "submitted": time.time()}
                for job, some in zip(array, part, strict=True)
            ]
        lines = "".join(json.dumps(job) + "\n" for job in [*jobs(folder), *submitted])
        files.write_text(folder / "jobs.jsonl", lines)
    except BaseException as error:
        cancel([str(job["job"]) for job in submitted])
        for path in set(logs.iterdir()) - old_logs:
            path.unlink()
        if isinstance(error, files.RecordError) or not isinstance(error, Exception):
            raise
        # an error of submitit or SLURM: a wrong partition, a full queue
        text = (x for x in str(error).splitlines() if x.strip() and "subprocess" not in x)
        reasons = list(dict.fromkeys(text))
        raise LaunchError(
            f"hydra/launcher=slurm: {' '.join(reasons[-2:])}; {_hint(reasons)}"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def _hint(error: Sequence[str]) -> str:
    """Return what to type instead, after an error of SLURM (its lines)."""
    if any("partition" in line for line in error):
        partitions = _ask("sinfo", "-h", "-o", "%R").stdout.split()
        known = ", ".join(dict.fromkeys(partitions))
        return f"hydra.launcher.partition=NAME; there are: {known}"
    return (
        "settings: hydra.launcher.{partition,account,qos,time,cpus,gpus,memory_gb}; "
        "hydra/launcher=local runs the same sweep in a pool here; `launchers/one_node_slurm.sh up "
        "DIR` starts a private one-node SLURM"
    )


def _become(words: list[str]) -> None:
    """Replace the job's process by the worker, which then gets its signals and ends it."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until the worker listens to it
    os.environ[lock.OURS] = os.environ["SLURM_JOB_ID"]
    os.execv(words[0], words)


def _parameters(place: Slurm, name: str, world: int, limit: int) -> dict[str, Any]:
    """Return the settings of the jobs as submitit calls them.

    Args:
        place: the settings as the user typed them.
        name: the name of the jobs.
        world: processes of a run.
        limit: time limit in minutes.

    """
    optional = {
        "partition": place.partition, "qos": place.qos, "account": place.account,
        "constraint": place.constraint, "gpus_per_node": (place.gpus or 0) * world or None,
        "mem": f"{int(place.memory_gb * 1024)}M" if place.memory_gb else None,
    }  # fmt: skip
    return {k: v for k, v in optional.items() if v is not None} | {
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
    """Return how many jobs an array of this cluster may have."""
    config = _ask("scontrol", "show", "config").stdout
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    return max(1, int(found.group(1)) - 1) if found else 1000


def cancel(ids: Sequence[str]) -> None:
    """Cancel the jobs that are not over."""
    if ids:
        _ask("scancel", *ids)


def ask(ids: Sequence[str]) -> None:
    """Send SIGUSR1 to the workers of jobs; they end, and record that they were cancelled."""
    if ids:
        _ask("scancel", "--signal=USR1", *ids)


def follow(
    root: Path, plan: Sequence[Point], folder: Path, max_failures: int | None = None
) -> dict[str, str]:
    """Wait until every submitted point has ended; return run id -> error of those that failed.

    Args:
        root: the folder of all runs and sweeps.
        plan: all points.
        folder: the folder of the sweep.
        max_failures: how many points may fail before the jobs of the others are cancelled; null
            for no limit.

    """
    job_of = {r: j for j in jobs(folder) for r in j["runs"]}  # the latest job of each run
    left = {p.run_id: p for p in todo(root, plan) if p.run_id in job_of}
    missed, stopped = dict[str, int](), False
    asked, known = 0.0, dict[str, tuple[str, str]]()
    with Outcomes(len(left), max_failures) as outcomes:
        while left:
            if time.monotonic() - asked > max(2 * POLL, 0.002 * len(left)):
                try:
                    known, asked = queue([job_of[k]["job"] for k in left]), time.monotonic()
                except (LaunchError, subprocess.TimeoutExpired):  # the scheduler may be restarting
                    time.sleep(POLL)
                    continue
            for key, point in list(left.items()):
                result = record.read_result(root, key)
                state, reason = known.get(job_of[key]["job"], ("unknown to SLURM", ""))
                if result is None and state in LIVE:
                    missed.pop(key, None)
                    continue
                if result is None:
                    missed[key] = missed.get(key, 0) + 1
                    if missed[key] < 3:  # the file server may show the last files late
                        continue
                del left[key]
                error = None if result else _lost(root, key, job_of[key], state, reason, folder)
                outcomes.ended(point, result, error)
            if outcomes.too_many_failed and not stopped:
                cancel([job_of[k]["job"] for k in left])
                stopped = True
            time.sleep(POLL)
    return outcomes.failed


def reason_of(run: Path, job: str) -> str | None:
    """Return why a run ended in this job; None if its record has no reason of this job."""
    reasons = (record.reason(run, array=job), record.reason(run, job=job))  # in an array, or alone
    return next((x for x in reasons if x is not None), None)


def _lost(root: Path, key: str, job: dict[str, Any], state: str, reason: str, folder: Path) -> str:
    """Return why a point has no result although its job is over; note it in the record too."""
    run, number = root / "runs" / key, str(job["job"])
    recorded = reason_of(run, number)
    if recorded is not None:
        return recorded
    status = record.load_status(run)
    began = number in (status.get("array"), status.get("job"))
    why = f"SLURM: {state}" + (f" ({reason})" if reason not in ("", "None") else "")
    why += f", job {number}"
    for path in (folder / "slurm").glob(f"{number}_*_log.err"):  # before the worker started
        lines = [x for x in path.read_text(errors="replace").splitlines() if x.strip()]
        if lines and not began:
            why += f"; {path}: {lines[-1]}"
    return record.mark(root, key, why, array=number)
