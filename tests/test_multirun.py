"""Sweeps from the command line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import ROOT, SMALL, folder, python

from sa.record import files, provenance, sweep
from sa.record import run as record


def test_a_sweep_computes_the_missing_points_and_writes_a_report(sa):
    words = ["-m", *SMALL, "estimator=cdg,ste,random", "seed=0,1", "sweep.name=mine"]
    words.append("figure=null")  # the default: what the runs measured is drawn
    sa(*SMALL, "estimator=cdg")  # this point exists already
    code, out, err = sa(*words)
    assert code == 0, err
    assert "6 points, 5 of 6 to do" in out and folder(out, "sweep") == Path("sweeps/mine")
    about, points = sweep.read_manifest(".", "mine")
    assert [p["index"] for p in points] == list(range(6))
    assert points[0]["overrides"] == ["estimator=cdg", "seed=0"]
    assert all(record.read_result(".", p["run_id"]) for p in points)
    assert (Path("sweeps/mine") / "report.html").exists()
    for kind in ("lr_decrease", "best_decrease", "alignment"):
        assert {p.suffix for p in Path("sweeps/mine/figures").glob(f"{kind}.*")} == {
            ".png", ".svg", ".pdf", ".csv",
        }  # fmt: skip
    import pandas as pd

    table = pd.read_parquet("sweeps/mine/results.parquet")
    assert len(table) == 6 and set(table["status"]) == {"done"}
    assert {"dim", "seed", "estimator._target_", "alignment/cosine", "run_id", "commit"} <= set(
        table
    )
    for _, row in table.iterrows():
        assert row["value"] == record.read_result(".", row["run_id"])["value"]
    code, out, _ = sa(*words)
    assert code == 0 and "0 of 6 to do" in out


def test_a_sweep_of_trainings_draws_its_curves(sa):
    words = ["-m", "experiment=digits_ste", "steps=12", "seed=0,1", "evaluate_every=4"]
    code, out, err = sa(*words, "tracker=none", "sweep.name=both")
    assert code == 0 and "note: figure" not in out, (out, err)
    assert len(list(Path("sweeps/both/figures").glob("*/curves.png"))) == 2
    assert Path("sweeps/both/report.html").read_text().count("data:image/png") == 2


def test_points_that_differ_only_in_bookkeeping_are_one_run(sa):
    code, out, err = sa("-m", *SMALL, "analysis=[]", "memory=1000000,2000000")
    assert code == 0 and "1 point, 1 of 1 to do" in out, err


def test_points_composed_together_equal_points_composed_one_by_one(sa):
    words = ["estimator=nes,cdg", "dim=4,6", "dataset.n=64,128"]
    sa("-m", "tracker=none", "analysis=[]", *words, "sweep.name=fast")
    _, points = sweep.read_manifest(".", "fast")
    assert len(points) == 8
    for point in points:
        out = sa("tracker=none", "analysis=[]", *point["overrides"])[1]
        assert folder(out).name == point["run_id"]


def test_a_sweep_with_a_diverged_point_succeeds_and_computes_the_others(sa):
    # weights that overflow at a huge learning rate are a result, not a failure
    words = ["-m", *SMALL, "analysis=[]", "estimator=ste", "steps=30", "sweep.name=rough",
             "evaluate_every=1"]  # fmt: skip
    code, out, err = sa(*words, "optimizer.lr=0.1,1e300")
    assert code == 0, err
    _, points = sweep.read_manifest(".", "rough")
    assert [record.state(Path("runs") / p["run_id"]) for p in points] == ["done", "diverged"]
    fine, rough = (record.read_result(".", p["run_id"]) for p in points)
    assert "test/loss" in fine and "test/loss" not in rough  # the loss at the start is not a result


def test_a_point_that_raises_is_reported_and_a_repeat_runs_only_that_point(sa, monkeypatch):
    from sa.estimator.ste import STE

    sound = STE.estimate

    def broken(self, *args):
        if self.surrogate == "poly":
            raise ArithmeticError("made to fail")
        return sound(self, *args)

    monkeypatch.setattr(STE, "estimate", broken)
    words = ["-m", *SMALL, "analysis=[]", "estimator=ste,ste_poly,ste_tanh", "sweep.name=part"]
    code, out, err = sa(*words)
    assert code == 1 and "made to fail" in out and "1 of 3 points failed" in err
    assert "sa.sweep status part" in err
    _, points = sweep.read_manifest(".", "part")
    states = [record.state(Path("runs") / p["run_id"]) for p in points]
    assert states == ["done", "failed", "done"]
    monkeypatch.setattr(STE, "estimate", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "1 of 3 to do" in out


def test_a_dry_run_writes_nothing(sa):
    code, out, _ = sa("-m", *SMALL, "seed=0,1", "sweep.dry_run=true")
    assert code == 0 and out.count("pending") == 2 and not list(Path(".").iterdir())


def test_frozen_configurations_run_in_a_worker(sa):
    sa(*SMALL)
    kept = next(Path("runs").iterdir())
    value = json.loads((kept / "result.json").read_text())["value"]
    for name in ("result.json", "status.json", "metrics.jsonl"):
        (kept / name).unlink()
    code, out, err = sa("--frozen", str(kept))
    assert code == 0, err
    assert json.loads((kept / "result.json").read_text())["value"] == value
    code, _, err = sa("--frozen", "nowhere")
    assert code == 2 and "nowhere" in err


def test_a_sweep_loses_points_only_with_sweep_replace(sa):
    sa("-m", *SMALL, "sweep.name=one", "seed=0,1")
    before = Path("sweeps/one/manifest.jsonl").read_text()
    code, _, err = sa("-m", *SMALL, "sweep.name=one", "seed=1,2")
    assert code == 2 and "1 point that" in err and "sweep.replace=true" in err
    assert Path("sweeps/one/manifest.jsonl").read_text() == before
    assert sa("-m", *SMALL, "sweep.name=one", "seed=0,1,2")[0] == 0  # points may be added
    assert sa("-m", *SMALL, "sweep.name=one", "seed=1,2", "sweep.replace=true")[0] == 0


def test_a_closed_output_pipe_does_not_stop_a_sweep(tmp_path):
    words = "experiment=digits_ste steps=200 evaluate_every=20 tracker=none figure=[]"
    command = f"{sys.executable} -m sa.run {words} root={tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("step 0") and not done.stderr, done.stderr
    (kept,) = (tmp_path / "runs").iterdir()
    assert json.loads((kept / "status.json").read_text())["state"] == "done"


def test_points_can_be_zipped_listed_and_excluded(sa):
    words = ["-m", *SMALL, "sweep.dry_run=true"]
    _, out, _ = sa(*words, "seed=0,1", "dim=4,5", "sweep.zip=[seed,dim]")
    assert [x.split("pending ")[1].split() for x in out.splitlines()[1:]] == [
        ["seed=0", "dim=4"],
        ["seed=1", "dim=5"],
    ]
    _, out, _ = sa(*words, "seed=0,1", "++steps=0,1", "sweep.zip=[steps,seed]")
    assert "2 points" in out and "++steps=0" in out and "++steps=1" in out
    _, out, _ = sa(*words, "sweep.points=['estimator=cdg','estimator=nes dim=5']", "seed=0,1")
    assert "4 points" in out and out.count("estimator=nes dim=5") == 2
    mine = ["estimator=cdg", "estimator=cdg estimator.epsilon=0.2", "estimator=cdg dim=5"]
    _, out, _ = sa(*words, f"sweep.points={mine}")  # each with its own settings only
    alone = [sa(*SMALL, "sweep.dry_run=true", *w.split())[1].split("run id ")[1][:10] for w in mine]
    assert [x.split()[1] for x in out.splitlines()[1:]] == alone and len(set(alone)) == 3
    _, out, _ = sa(*words, "seed=0,1", "dim=4,5", "sweep.exclude=['dim=5 seed=1']")
    assert "3 points" in out and "seed=1 dim=5" not in out


def test_a_pool_of_workers_computes_the_same_numbers_as_one_process(sa):
    words = ["-m", *SMALL, "analysis=[]", "estimator=nes", "estimator.samples=5"]
    code, out, err = sa(*words, "seed=0,1,2", "sweep.name=pool", "hydra/launcher=local",
                        "hydra.launcher.workers=2")  # fmt: skip
    assert code == 0, err
    pooled = {p.name: json.loads((p / "result.json").read_text()) for p in Path("runs").iterdir()}
    code, _, err = sa(*words, "seed=0,1,2", "sweep.name=alone", "root=other")
    assert code == 0, err
    for name, one in pooled.items():
        here = json.loads((Path("other/runs") / name / "result.json").read_text())
        assert here | {"seconds": 0} == one | {"seconds": 0}
        assert "run: " in (Path("runs") / name / "log.txt").read_text()


FAILS = [
    "init=ste_500",
    "init.batch_size=null",
    "init.steps=2",
    "init.optimizer.lr=1e300",
    "analysis=[]",
]


def test_a_pool_reports_failures_and_stops_after_max_failures(sa):
    words = ["-m", *SMALL, *FAILS, "seed=0,1,2,3,4,5", "hydra/launcher=local"]
    words += ["hydra.launcher.workers=1", "hydra.launcher.points_per_job=1", "sweep.name=bad"]
    code, out, err = sa(*words, "sweep.max_failures=2")
    assert code == 1 and out.count("FAILED") == 2 and "4 were not started" in err, (out, err)
    assert "the parent run" in out
    code, out, err = sa("-m", *SMALL, *FAILS, "seed=0,1,2", "sweep.canary=true", "sweep.name=yell")
    assert code == 1 and "the canary failed, no other point was started" in err
    assert out.count("FAILED") == 1


def test_a_sweep_with_a_snapshot_runs_the_copied_code(sa):
    words = ["-m", *SMALL, "analysis=[]", "seed=0,1", "sweep.name=snap", "sweep.snapshot=true"]
    code, _, err = sa(*words, "hydra/launcher=local")
    assert code == 0, err
    code_ = Path("sweeps/snap/code")
    assert (code_ / "sa/run.py").read_bytes() == (ROOT / "sa/run.py").read_bytes()
    assert (code_ / "conf/config.yaml").exists()
    # the commit of the code, not of the folder it was copied to
    own = json.loads((code_ / "commit.json").read_text())
    assert own == provenance.commit()
    for kept in Path("runs").iterdir():
        meta = json.loads((kept / "meta.json").read_text())
        assert {k: meta[k] for k in own} == own


def test_the_commit_of_a_repository_that_does_not_track_the_code_is_not_recorded(
    tmp_path, monkeypatch
):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "sa" / "record").mkdir(parents=True)
    words = ["-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "c"]
    subprocess.run(["git", *words, "--allow-empty"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "sa/record/provenance.py"))
    monkeypatch.setattr(provenance, "_COMMIT", {})
    assert provenance.commit() == {"commit": None, "dirty": False}


@pytest.mark.slow
def test_an_optuna_search_maximises_the_metric_and_resumes(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_optuna_sweeper", reason="needs pip install -e '.[optuna]'"
    )
    words = [*SMALL, "estimator=cdg", "estimator.epsilon=tag(log,interval(0.01,1))"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "SA_ROOT": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}
    found = {}
    for trials in ("2", "3"):
        told = subprocess.run(
            [ROOT / "launchers/optuna.sh", *words], env=env | {"TRIALS": trials},
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        kept, found = found, {p: p.stat().st_mtime for p in tmp_path.glob("runs/*/result.json")}
        assert len(found) == int(trials) and kept.items() <= found.items()
        best = yaml.safe_load((tmp_path / "sweeps/optuna/optimization_results.yaml").read_text())
        results = [json.loads(p.read_text())["descent/best"] for p in found]
        assert best["best_value"] == max(results)
        assert 0.01 <= best["best_params"]["estimator.epsilon"] <= 1


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_hydras_own_launchers_keep_working(sa, launcher):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    words = ["-m", *SMALL, "analysis=[]", "seed=0,1", f"sweep.name={launcher}"]
    code, out, err = sa(*words, f"hydra/launcher={launcher}")
    assert code == 0, (out, err)
    assert "0 of 2 to do" in sa(*words)[1]


def test_sigterm_ends_a_training_as_interrupted(sa, tmp_path):
    words = "-m sa.run experiment=digits_ste steps=100000 tracker=none figure=[]".split()
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    for _ in range(600):
        time.sleep(0.1)
        kept = list(Path("runs").glob("*"))
        if kept and record.read_rows(kept[0]):
            break
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "repeat the command" in err
    told = record.load_status(kept[0])
    assert told["state"] == "interrupted" and "SIGTERM" in told["error"]


def test_two_local_drivers_share_a_sweep(tmp_path):
    env = os.environ | {"SA_ROOT": str(tmp_path)}
    words = [*SMALL, "steps=500", "evaluate_every=null", "sweep.name=both", "seed=range(4)"]
    words += ["hydra/launcher=local", "hydra.launcher.workers=2"]
    command = [sys.executable, "-m", "sa.run", "-m", *words]
    drivers = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for driver in drivers:
        out, err = driver.communicate(timeout=120)
        assert driver.returncode == 0 and "FAILED" not in out, (out, err)
    points = sweep.read_manifest(tmp_path, "both")[1]
    assert all(record.load_status(tmp_path / "runs" / p["run_id"])["restarts"] == 0 for p in points)


@pytest.mark.parametrize("how", ["cancel", "SIGTERM"])
def test_cancelling_a_local_driver_ends_its_workers(tmp_path, how):
    env = os.environ | {"SA_ROOT": str(tmp_path)}
    words = [*SMALL, "steps=5000000", "sweep.name=long", "seed=range(4)", "hydra/launcher=local"]
    command = [sys.executable, "-m", "sa.run", "-m", *words, "hydra.launcher.workers=1"]
    driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while time.time() < deadline:
        if any(p.stat().st_size > 1000 for p in tmp_path.glob("runs/*/metrics.jsonl")):
            break
        time.sleep(0.05)
    if how == "cancel":
        done = python("-m", "sa.sweep", "cancel", "long", env=env)
        assert "1 processes told to stop" in done.stdout, done
    else:
        driver.terminate()
    driver.communicate(timeout=60)
    assert driver.returncode in (2, 130)
    states = [record.state(p) for p in (tmp_path / "runs").iterdir()]
    assert sorted(states) == ["interrupted", "pending", "pending", "pending"]


def test_an_edited_manifest_is_reported_and_repeating_the_command_rewrites_it(sa):
    words = ["-m", *SMALL, "seed=0,1", "sweep.name=edited"]
    sa(*words)
    path = Path("sweeps/edited/manifest.jsonl")
    for damage in ("garbage", path.read_text().replace("seed=0", "seed=9")):
        path.write_text(damage)
        with pytest.raises(files.RecordError, match="writes the manifest again"):
            sweep.read_manifest(".", "edited")
        code, out, err = sa(*words)
        assert code == 0 and "0 of 2 to do" in out, err
        assert len(sweep.read_manifest(".", "edited")[1]) == 2
