"""Signals, cancel, retry in the right folder, and the defaults of sbatch."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from sa.config.catalogue import top
from sa.config.parents import resolve
from sa.job import execute
from sa.job.signals import Signals, Stopped
from sa.launch import driver, progress, slurm
from sa.launch.defaults import defaults, minutes
from sa.launch.here import _why, inline
from sa.launch.plan import LaunchError, Point, scrubbed, write_plan
from sa.launch.progress import Cancelled
from sa.launch.snapshot import paths
from sa.record import files, identity, lock, sweep
from sa.record import run as record
from sa.record.config import write_config
from sa.sweep import status as told
from sa.sweep.command import main

HERE = os.uname().nodename


# Signals


@pytest.fixture
def job(monkeypatch):
    """Set the environment: no SLURM, an allocation of the user, or a job that sa submitted."""

    def inside(kind):
        for key in ("SLURM_JOB_ID", lock.OURS, "SA_REQUEUE"):
            monkeypatch.delenv(key, raising=False)
        if kind != "login node":
            monkeypatch.setenv("SLURM_JOB_ID", "7")
        if kind == "ours":
            monkeypatch.setenv(lock.OURS, "7")
        if kind == "salloc inside ours":
            monkeypatch.setenv(lock.OURS, "6")
            monkeypatch.setenv("SA_REQUEUE", "1")

    return inside


@pytest.mark.parametrize("kind", ["login node", "salloc or Jupyter", "salloc inside ours"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_a_run_outside_our_own_slurm_jobs(job, kind, number, monkeypatch):
    job(kind)
    monkeypatch.setattr(subprocess, "Popen", None)  # no job is requeued
    with Signals() as asked:
        with pytest.raises(Stopped, match=r"cancel$" if number == signal.SIGUSR1 else number.name):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)  # while the first is being recorded
    assert not asked.to_save


def test_in_our_own_slurm_job_a_signal_saves_the_run_and_only_a_cancel_ends_it(job, monkeypatch):
    job("ours")
    monkeypatch.setenv("SA_REQUEUE", "1")
    asked_for = []
    monkeypatch.setattr(subprocess, "Popen", asked_for.append)
    with Signals() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked.to_save and not asked_for
        signal.raise_signal(signal.SIGUSR2)
        assert asked_for == [["scontrol", "requeue", "7"]]
        with pytest.raises(Stopped, match="cancel"):
            signal.raise_signal(signal.SIGUSR1)


def test_our_own_slurm_job_records_its_job_number(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.setenv(lock.OURS, "30")  # the job that submitted it
    before = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr(os, "execv", lambda *_: None)
    try:
        slurm._become(["python"])
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert lock.our_job() == "31"


def test_a_signal_while_data_are_loading_is_recorded(tmp_path, monkeypatch):
    """Loading data may take minutes: it is part of the run."""
    config = {"root": str(tmp_path), "seed": 0, "init": None}
    monkeypatch.setattr(execute, "_parents", lambda *_: (None, []))
    monkeypatch.setattr(execute, "build", lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(Stopped):
        execute.execute(config)
    (folder,) = (tmp_path / "runs").iterdir()
    assert record.state(folder) == "interrupted"
    assert record.load_status(folder)["error"] == "stopped by SIGTERM"


# Cancel


def test_a_driver_obeys_only_a_cancel_written_after_it_began(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    sweep.write_manifest(tmp_path, "s", [], {})
    first = Cancelled(folder)
    first.stop()
    told.cancel(tmp_path, "s")
    second = Cancelled(folder)
    os.utime(folder / "cancelled", (0, 0))  # the time of the file does not matter
    with pytest.raises(LaunchError, match="cancelled by"):
        first.stop()
    second.stop()
    told.cancel(tmp_path, "s")
    with pytest.raises(LaunchError):
        second.stop()


def test_cancelling_an_inline_driver_ends_its_current_run_or_parent(tmp_path, monkeypatch):
    """A parent is not a point of the sweep, so it cannot be cancelled by name."""
    monkeypatch.setattr(progress, "POLL", 0.01)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    sweep.write_manifest(tmp_path, "s", [], {})

    def compute(_):
        with Signals():
            told.cancel(tmp_path, "s")
            time.sleep(20)

    with pytest.raises(Stopped, match="cancelled by"):
        inline(tmp_path, [point(tmp_path)], compute, tmp_path / "sweeps" / "s")


def point(tmp_path, seed=0, **more):
    config = {"seed": seed, "steps": 1, "root": str(tmp_path), "sweep": {"name": "s"}} | more
    write_config(tmp_path, config)
    return Point(seed, identity.run_id(config), [f"seed={seed}"], config)


def test_cancel_keeps_the_reason_that_a_job_recorded_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(told, "PATIENCE", 0.2)
    plan = [point(tmp_path, seed) for seed in range(3)]
    write_plan(tmp_path, "s", plan)
    jobs = [{"job": f"5_{p.index}", "runs": [p.run_id], "submitted": 0.0} for p in plan]
    path = tmp_path / "sweeps" / "s" / "jobs.jsonl"
    path.write_text("".join(json.dumps(j) + "\n" for j in jobs))
    record.mark(tmp_path, plan[0].run_id, "out of memory", array="5_0")
    record.mark(tmp_path, plan[1].run_id, "of an earlier job", array="4_1")
    alive = {j["job"]: ("RUNNING", "None") for j in jobs}
    monkeypatch.setattr(slurm, "queue", lambda _: dict(alive))
    monkeypatch.setattr(slurm, "ask", lambda _: None)
    monkeypatch.setattr(slurm, "cancel", lambda _: alive.clear())
    told.cancel(tmp_path, "s")
    ends = [record.load_status(tmp_path / "runs" / p.run_id) for p in plan]
    assert [e["error"] for e in ends] == ["out of memory", *["cancelled by sa.sweep cancel"] * 2]
    assert [p["error"] for p in ends[1]["past"]] == ["of an earlier job"]
    # a driver that follows the jobs gives the same reasons, not SLURM's words
    lost = [
        slurm._lost(tmp_path, p.run_id, j, "CANCELLED", "", tmp_path)
        for p, j in zip(plan, jobs, strict=True)
    ]
    assert lost == [e["error"] for e in ends]


def test_the_reason_of_a_lost_job_is_matched_by_job_number_not_by_time(tmp_path):
    one = point(tmp_path)
    folder = tmp_path / "runs" / one.run_id
    status = {"state": "failed", "error": "mine", "started": 0.0, "array": "9_0"}  # a clock behind
    files.write_json(folder / "status.json", status)
    job = {"job": "9_0", "runs": [], "submitted": 1e12}
    assert slurm._lost(tmp_path, one.run_id, job, "FAILED", "", tmp_path) == "mine"
    files.write_json(folder / "status.json", status | {"array": None, "job": "9"})
    alone = job | {"job": "9"}  # a job outside an array
    assert slurm._lost(tmp_path, one.run_id, alone, "FAILED", "", tmp_path) == "mine"
    later = slurm._lost(tmp_path, one.run_id, job | {"job": "10_0"}, "TIMEOUT", "", tmp_path)
    assert later == "SLURM: TIMEOUT, job 10_0"
    assert [p["error"] for p in record.load_status(folder)["past"]] == ["mine"]


def test_a_worker_that_dies_at_its_start_does_not_inherit_an_earlier_reason(tmp_path):
    one = point(tmp_path)
    record.mark(tmp_path, one.run_id, "last week's", host=HERE, pid=1)
    assert _why(tmp_path, one, 1, 1) == "last week's"
    assert "SIGKILL" in _why(tmp_path, one, 2, -9)
    assert "SIGKILL" in _why(tmp_path, one, 2, -9)  # a second call gives the same
    assert len(record.load_status(tmp_path / "runs" / one.run_id)["past"]) == 1


# Paths that are relative to a folder


def test_a_relative_data_path_is_relative_to_the_folder_of_the_command(tmp_path, monkeypatch):
    config = dict.fromkeys(top()) | {"root": ".", "dataset": {"root": "data"}, "steps": 0}
    config |= {"sweep": {"name": None}}
    monkeypatch.chdir(tmp_path)
    made = resolve(config)
    assert made["dataset"]["root"] == str(tmp_path / "data")
    monkeypatch.chdir("/")
    assert resolve(made) == made and identity.run_id(made) == identity.run_id(config)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(config | {"dataset": {"root": "~/x"}})["dataset"]["root"] == str(tmp_path / "x")


@pytest.mark.parametrize("odd", ["plain", "with space, comma", "quo'te"])
@pytest.mark.parametrize("typed", [["root=res"], ["++root=res"], []])
def test_retry_of_a_slurm_sweep_runs_in_the_folder_of_the_original_command(
    tmp_path, monkeypatch, odd, typed
):
    first, second = tmp_path / odd, tmp_path / "elsewhere"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.chdir(first)
    monkeypatch.setenv("SA_DATA", "pictures")
    if not typed:
        monkeypatch.setenv("SA_ROOT", "res")
    monkeypatch.setattr(sys, "argv", ["sa", "-m", *typed, "seed=0", "--config-dir=mine"])
    write_plan(Path("res"), "s", [point(Path("res"))])
    (Path("res") / "sweeps/s/jobs.jsonl").write_text('{"job": "1_0", "runs": []}\n')
    monkeypatch.chdir(second)
    monkeypatch.delenv("SA_DATA")
    monkeypatch.delenv("SA_ROOT", raising=False)
    monkeypatch.setenv("PYTHONPATH", "code")
    ran = []

    def run(words, **more):
        ran.append((words, more))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["retry", "s", "--root", f"../{odd}/res"]) == 0
    ((words, more),) = ran
    assert more["cwd"] == first
    assert more["env"]["SA_DATA"] == str(first / "pictures")
    assert more["env"]["PYTHONPATH"] == str(second / "code")  # typed with the retry
    root = Path(more["env"]["SA_ROOT"])
    assert root.is_absolute() and root.resolve() == first / "res"
    assert words[3:-1] == ["-m", "seed=0", "--config-dir=mine"]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([words[-1]])
    assert override.key_or_group == "root" and override.value() == str(root)
    assert not override.is_sweep_override()


def test_retry_reports_that_the_folder_of_the_original_command_is_gone(
    tmp_path, monkeypatch, capsys
):
    one = point(tmp_path)
    write_plan(tmp_path, "s", [one])
    path = tmp_path / "sweeps/s/sweep.json"
    about = json.loads(path.read_text()) | {"typed_in": {"folder": str(tmp_path / "gone")}}
    path.write_text(json.dumps(about))
    (path.parent / "jobs.jsonl").write_text('{"job": "1_0", "runs": []}\n')
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=0))
    assert main(["retry", "s", "--root", str(tmp_path)]) == 0
    assert "gone, no longer exists: relative paths" in capsys.readouterr().err


def test_a_snapshot_comes_first_on_the_python_path_and_keeps_the_users_entries(
    tmp_path, monkeypatch
):
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["mine", "/abs"]))
    assert paths(tmp_path)["PYTHONPATH"].split(os.pathsep) == [
        str(tmp_path / "code"), str(tmp_path / "mine"), "/abs", str(tmp_path),
    ]  # fmt: skip


# Defaults of sbatch


ENV = {"SBATCH_PARTITION": "p", "SBATCH_QOS": "q", "SBATCH_TIMELIMIT": "5", "SBATCH_EXPORT": "NONE"}


def test_sbatch_defaults_apply_unless_overridden_and_all_are_named():
    held, notes = defaults(ENV | {"PATH": "x", "SBATCH_WCKEY": ""}, {"partition": "mine"})
    assert held == {"SBATCH_QOS": "q", "SBATCH_TIMELIMIT": "5"}
    assert notes == [
        "defaults of your environment hold for these jobs: SBATCH_QOS=q, SBATCH_TIMELIMIT=5",
        "SBATCH_EXPORT=NONE is not used for these jobs: the launcher sets it itself",
        "SBATCH_PARTITION=p is not used for these jobs: hydra.launcher.partition=mine is set",
    ]
    assert defaults({"PATH": "x"}, {}) == ({}, [])


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("MEM_PER_CPU", {"memory_gb": 2.0}), ("GRES", {"gpus": 0}), ("TIMELIMIT", {"time": 60}),
        ("RESERVATION", {"extra": {"reservation": "r"}}), ("MEM_PER_NODE", {"extra": {"mem": 1}}),
        ("SIGNAL", {}), ("ARRAY_INX", {}), ("OUTPUT", {}), ("WAIT", {}), ("NO_REQUEUE", {}),
        ("CPU_BIND_TYPE", {}),
    ],
)  # fmt: skip
def test_typed_settings_and_launcher_settings_override_sbatch_defaults(name, typed):
    held, (note,) = defaults({f"SBATCH_{name}": "1"}, typed)
    assert not held and f"SBATCH_{name}=1 is not used" in note


@pytest.mark.parametrize(
    "name", ["ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "TIMELIMIT", "GPUS", "RESERVATION"]
)
def test_launcher_settings_that_were_not_typed_keep_the_sbatch_default(name):
    held, _ = defaults({f"SBATCH_{name}": "1"}, vars(slurm.Slurm()))
    assert held == {f"SBATCH_{name}": "1"}


def test_the_time_limit_in_force_decides_when_a_job_is_signalled_to_save():
    limits = ("90", "1:30", "2:00:00", "1-0", "1-1:30", "UNLIMITED")
    assert [minutes(x) for x in limits] == [90, 2, 120, 1440, 1530, 525600]
    got = slurm._parameters(slurm.Slurm(), "s", 1, minutes("1"))
    assert got["time"] == 1 and got["signal_delay_s"] == 20


def test_scrubbed_keeps_the_cluster_and_drops_the_job_and_an_inherited_wandb_service():
    env = {"SLURM_CONF": "a", "SLURM_CLUSTERS": "b", "SLURM_JOB_ID": "c", "WANDB_SERVICE": "d"}
    assert scrubbed(env | {"WANDB_MODE": "e"}) == {
        "SLURM_CONF": "a", "SLURM_CLUSTERS": "b", "WANDB_MODE": "e",
    }  # fmt: skip


def test_squeue_is_asked_without_the_users_filters(monkeypatch):
    asked = []

    def run(words, **more):
        asked.append(more["env"])
        return types.SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(slurm.shutil, "which", lambda _: "squeue")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    slurm.queue(["1_0"])
    assert not [k for k in asked[0] if k.startswith("SQUEUE_")]


def test_submitted_jobs_that_cannot_be_recorded_are_cancelled(tmp_path, monkeypatch):
    import submitit

    cancelled = []
    made = types.SimpleNamespace(job_id="8_0")
    fake = types.SimpleNamespace(update_parameters=lambda **_: None, map_array=lambda *_: [made])
    monkeypatch.setattr(submitit, "SlurmExecutor", lambda **_: fake)
    monkeypatch.setattr(slurm, "_array_limit", lambda: 5)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)

    def full(path, *_):
        raise files.RecordError(f"{path}: No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    work = [[Point(0, "aa", [], {})]]
    with pytest.raises(files.RecordError, match=r"jobs\.jsonl: No space"):
        slurm.submit(tmp_path, tmp_path, slurm.Slurm(), work)
    assert cancelled == ["8_0"]


def test_a_failure_of_a_foreign_launcher_is_reported_in_one_line(tmp_path):
    class Theirs:
        def launch(self, words, initial_job_idx):
            raise OSError("sbatch: fatal: no configuration source")

    plan = [Point(0, "aa", [], {"root": str(tmp_path)}, ["dim=3"])]
    with pytest.raises(LaunchError, match="Theirs, a launcher of Hydra's.*no configuration"):
        driver._launch(tmp_path, plan, None, Theirs(), tmp_path, None)
