"""Sweeps on a real SLURM: a private one-node cluster, started and stopped by our own script."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sa.launch import slurm as launched
from sa.launch.plan import scrubbed
from sa.record import files, run, sweep

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launchers" / "one_node_slurm.sh"
SHORT = "dataset.n=64 dim=3 analysis=[] tracker=none".split()
TRAIN = "experiment=digits_ste tracker=none figure=[] evaluate_every=null".split()
LONG = 5_000_000

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),  # one cluster for all of them
    pytest.mark.skipif(
        not (shutil.which("slurmctld") or Path("/usr/sbin/slurmctld").exists()),
        reason="SLURM is not installed: apt-get install --no-install-recommends slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def cluster():
    """Start SLURM in its own folder: 16 claimed CPUs, arrays of at most 5, immediate preemption."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # sockets need a short path
        sizes = {"ONE_NODE_CPUS": "16", "ONE_NODE_MAX_ARRAY": "6", "ONE_NODE_GRACE": "0"}
        env = scrubbed(dict(os.environ)) | sizes
        subprocess.run([SCRIPT, "up", folder], env=env, check=True, timeout=90)
        yield scrubbed(dict(os.environ)) | {"SLURM_CONF": f"{folder}/slurm.conf"}
        subprocess.run([SCRIPT, "down", folder], env=env, timeout=90)


@pytest.fixture
def sa(cluster, tmp_path, monkeypatch):
    """Start `python -m sa.run WORDS` on the cluster from an empty folder; returns the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    started = []

    def start(*words, module="sa.run"):
        command = [sys.executable, "-m", module, *words]
        process = subprocess.Popen(
            command, env=cluster, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    subprocess.run(["scancel", "--user", str(os.getuid())], env=cluster, capture_output=True)


def slurm(*words):
    return ["-m", *words, "hydra/launcher=slurm", "hydra.launcher.points_per_job=1"]


def ended(process, seconds=150):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def until(ready, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = ready()
        if got:
            return got
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {ready}")


def by_label(name):
    """Return the run folder of every point of a sweep, by its overrides."""
    _, points = sweep.read_manifest(".", name)
    return {" ".join(p["overrides"]): Path("runs") / p["run_id"] for p in points}


def training(folder):
    return run.load_status(folder).get("state") == "running" and len(
        run.read_rows(folder)
    ) > 20  # fmt: skip


@pytest.mark.slow
def test_every_way_to_fail_is_reported_and_a_repeat_runs_only_the_failed_points(sa):
    """One raises, one is killed, one exceeds its time, one is cancelled; two others finish."""
    words = [
        *TRAIN,
        "sweep.points=['steps=20 seed=0','steps=20 seed=1',"
        "'steps=30 seed=2 init=ste_500 init.steps=2 init.optimizer.lr=1e300',"
        f"'steps={LONG} seed=3','steps={LONG} seed=4','steps={LONG} seed=5']",
        "sweep.name=ends",
    ]
    driver = sa(*slurm(*words, "hydra.launcher.time=1", "hydra.launcher.requeue=false"))
    runs = until(lambda: Path("sweeps/ends/manifest.jsonl").exists() and by_label("ends"))
    at = {k.split("seed=")[1].split()[0]: v for k, v in runs.items()}
    until(lambda: all(training(at[k]) for k in "345"))
    os.kill(run.load_status(at["3"])["pid"], signal.SIGKILL)
    (job,) = [j["job"] for j in launched.jobs(Path("sweeps/ends")) if at["4"].name in j["runs"]]
    launched.cancel([job])
    status = until(lambda: "SLURM: CANCELLED" in told("ends") and told("ends"), 30)
    assert "running" in status  # the others go on
    code, out, err = ended(driver)
    assert code == 1 and "4 of 6 points failed" in err, (out, err)
    status = told("ends")
    for words in ("overflow", "SLURM: FAILED (NonZeroExitCode)", "SLURM: CANCELLED", "TIMEOUT"):
        assert words in status, status
    assert status.startswith("ends: 6 points: 4 failed, 2 done")
    code, out, _ = ended(sa(*slurm(*words[:0], *_again(words_of("ends")), "sweep.dry_run=true")))
    assert code == 0 and "4 of 6 to do" in out, out


def words_of(name):
    """Return the recorded command that made a sweep."""
    return json.loads(Path(f"sweeps/{name}/sweep.json").read_text())["argv"]


def _again(argv):
    return [w for w in argv if w != "-m" and not w.startswith("hydra")]


def told(name):
    from sa.sweep.status import _progress

    status = _progress(Path("."), name)
    return "\n".join([status.head, *(" ".join(row) for row in status.table), status.hint])


@pytest.mark.slow
def test_preempted_and_requeued_runs_end_with_the_same_numbers_as_undisturbed_ones(sa, cluster):
    words = [*TRAIN, "steps=8000", "seed=0,1", "sweep.name=pre"]
    driver = sa(*slurm(*words))
    runs = until(lambda: Path("sweeps/pre/manifest.jsonl").exists() and by_label("pre"))
    first, second = runs["seed=0"], runs["seed=1"]
    until(lambda: training(first) and training(second))
    # USR2, as before a time limit: the job saves and requeues itself
    raw = run.load_status(first)["job"]
    subprocess.run(["scancel", "-s", "USR2", raw], env=cluster, check=True)
    # SIGTERM alone, from a job of higher priority that needs the whole node
    other = ["sbatch", "-p", "urgent", "-c", "16", "--wrap", "sleep 1"]
    subprocess.run(other, env=cluster, check=True, capture_output=True)
    code, out, err = ended(driver, 240)
    assert code == 0, (out, err)
    calm = [sa(*TRAIN, "steps=8000", f"seed={seed}", "root=calm") for seed in (0, 1)]
    assert [ended(c)[0] for c in calm] == [0, 0]
    for folder in (first, second):
        assert run.load_status(folder)["restarts"] >= 1
        undisturbed = Path("calm/runs") / folder.name
        mine, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, undisturbed))
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
        rows = [(f / "metrics.jsonl").read_bytes() for f in (folder, undisturbed)]
        assert rows[0] == rows[1]


def test_a_driver_inside_a_job_submits_more_points_than_one_array_may_hold(sa, cluster):
    """Seven points, of which an array may hold five, submitted from inside a job with one CPU."""
    words = slurm(*SHORT, "seed=range(0,7)", "sweep.name=many", "hydra.launcher.cpus=2")
    command = " ".join([sys.executable, "-m", "sa.run", *(f"'{w}'" for w in words)])
    inside = ["srun", "-c", "1", "-n", "1", "bash", "-c", command]
    done = subprocess.run(inside, env=cluster, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert len({j["job"].split("_")[0] for j in launched.jobs(Path("sweeps/many"))}) == 2
    for folder in by_label("many").values():
        assert run.read_result(".", folder.name)
        assert files.read_json(folder / "meta.json")["slurm"]["SLURM_CPUS_PER_TASK"] == "2"


def test_killed_and_concurrent_drivers_lose_and_repeat_no_run(sa):
    words = slurm(*TRAIN, "steps=400", "seed=0,1,2", "sweep.name=drivers")
    one = sa(*words)
    until(lambda: launched.jobs(Path("sweeps/drivers")))
    one.kill()
    two, three = sa(*words), sa(*words)
    for driver in (two, three):
        code, out, err = ended(driver)
        assert code == 0, (out, err)
    runs = [r for j in launched.jobs(Path("sweeps/drivers")) for r in j["runs"]]
    assert len(runs) == len(set(runs)) == 3  # submitted once each
    assert all(run.load_status(f)["restarts"] == 0 for f in by_label("drivers").values())
    code, out, _ = ended(sa(*words))
    assert code == 0 and "0 of 3 to do" in out


def test_two_drivers_at_once_submit_each_point_once(sa):
    words = slurm(*SHORT, "seed=range(0,4)", "sweep.name=both")
    drivers = [sa(*words), sa(*words)]
    assert [ended(d)[0] for d in drivers] == [0, 0]
    runs = [r for j in launched.jobs(Path("sweeps/both")) for r in j["runs"]]
    assert sorted(runs) == sorted(set(runs)) and len(runs) == 4


def test_a_sweep_submitted_without_waiting_can_be_cancelled_by_name(sa):
    words = slurm(*TRAIN, f"steps={LONG}", "seed=0,1", "sweep.name=fly", "sweep.wait=false")
    code, out, err = ended(sa(*words))
    assert code == 0 and "python -m sa.sweep status fly --watch" in out, (out, err)
    runs = by_label("fly")
    until(lambda: all(training(f) for f in runs.values()))
    code, out, _ = ended(sa("cancel", "fly", module="sa.sweep"))
    assert code == 0 and "2 jobs cancelled" in out
    for folder in runs.values():  # they have ended and recorded it themselves
        status = run.load_status(folder)
        assert status["state"] == "interrupted"
        assert status["error"].strip().endswith("cancelled by sa.sweep cancel")
    until(lambda: not launched.live_runs(Path("sweeps/fly")), 30)
    assert told("fly").startswith("fly: 2 points: 2 interrupted")
    assert told("fly").count("cancelled by sa.sweep cancel") == 2


def test_a_job_starts_the_processes_of_its_run_and_has_their_cpus(sa):
    words = slurm(*TRAIN, "steps=20", "batch_size=33", "processes=2", "sweep.name=ranks")
    code, out, err = ended(sa(*words))
    assert code == 0, (out, err)
    (found,) = by_label("ranks").values()
    assert run.read_result(".", found.name)["status"] == "done"
    assert files.read_json(found / "meta.json")["slurm"]["SLURM_CPUS_PER_TASK"] == "2"


def test_a_wrong_partition_is_reported_in_slurms_words_and_no_job_is_submitted(sa):
    words = slurm(*SHORT, "seed=range(0,7)", "sweep.name=wrong", "hydra.launcher.partition=nope")
    code, _, err = ended(sa(*words))
    assert code == 2 and "invalid partition specified: nope" in err and "Traceback" not in err
    assert not launched.jobs(Path("sweeps/wrong"))


def test_workers_get_the_trust_that_was_typed_and_a_package_of_ones_own(sa, tmp_path):
    shutil.copytree(ROOT / "examples" / "mylab" / "mylab", tmp_path / "mylab")
    words = ["experiment=rings_half", "steps=2", "tracker=none", "figure=[]", "sweep.name=own"]
    done = sa("--trust=mylab", "--config-dir=mylab/conf", *slurm(*words))
    code, out, err = ended(done)
    assert code == 0, out + err
    assert all(run.state(f) == "done" for f in (tmp_path / "runs").iterdir())
