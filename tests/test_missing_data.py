"""Runs that read data from files, and what happens if the files are missing."""

import shutil
from pathlib import Path

import pytest
import yaml
from commands import folder, result
from conftest import cifar

from sa.config.error import NoData
from sa.job import execute
from sa.record import run as record


@pytest.mark.parametrize(("words", "told"), [
    (["estimator=nes", "estimator.sigma=-1"], "estimator.sigma=-1"),
    (["batch_size=60000"], "batch_size"),
    (["analysis=[critical_points]"], "analysis.critical_points"),
    (["init=ste_500", "init.estimator.surrogate=foo"], "foo"),
    (["clip=1", "quantizer=fp"], "clip: no layer"),
    (["tracker.mode=nope"], "tracker.mode"),
    (["replicas=3"], "replicas"),
])  # fmt: skip
def test_an_error_in_a_setting_is_reported_even_if_data_are_missing(sa, words, told):
    given = ["dataset=cifar10", "model=cnn_relu", *words]
    code, _, err = sa(*given)
    assert code == 2 and told in err and "cifar-10-batches-py" not in err
    code, _, err = sa("-m", "estimator=cdg,ste", *given[:2], "seed=0,-1", "analysis=[]")
    assert code == 2 and "point 1" in err and "seed=-1" in err


def test_a_dry_run_needs_no_data_no_gpu_and_no_scheduler(sa, monkeypatch):
    """A dry run notes what would keep the plan from running, and writes no file."""
    monkeypatch.setenv("PATH", "/nowhere")
    words = ["dataset=cifar10", "model=cnn_relu", "analysis=[]", "device=cuda"]
    code, out, err = sa(*words, "sweep.dry_run=true")
    assert code == 0 and "valid; run id" in out and "note: " in err
    for launcher in ("inline", "local", "slurm"):
        more = ["seed=0,1", f"hydra/launcher={launcher}", "sweep.dry_run=true"]
        code, out, err = sa("-m", *words, *more)
        assert code == 0 and out.count("pending") == 2 and err.count("note: ") == 1, err
    assert "sbatch is not found" in err
    code, out, err = sa("-m", *words[:3], "seed=0,1", "sweep.dry_run=true")
    assert code == 0 and out.count("pending") == 2 and "cifar-10-batches-py" in err
    assert not list(Path(".").iterdir())


def test_the_folder_of_cifar10_does_not_change_the_run_id(sa, monkeypatch, tmp_path):
    words = ["dataset=cifar10", "dataset.n=20", "model=cnn_relu", "analysis=[]", "tracker=none"]
    for place in ("here", "there"):
        cifar(tmp_path / place, rows=5)
    code, out, err = sa(*words, "dataset.root=here", "steps=2")
    assert code == 0, err
    assert {"train/accuracy", "test/accuracy"} <= set(result(out))
    first = folder(out)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there" / "cifar-10-batches-py"))
    assert folder(sa(*words, "steps=2")[1]) == first
    assert folder(sa(*words, "steps=2", "dataset.n=10")[1]) != first


def test_a_sweep_with_missing_data_starts_no_run_and_a_worker_skips_it(sa, tmp_path):
    words = ["-m", "dataset=cifar10", "dataset.n=20,10", "model=cnn_relu", "analysis=[]"]
    words += ["tracker=none", "sweep.name=pictures"]
    code, _, err = sa(*words)
    assert code == 2 and "cifar-10-batches-py" in err and not Path("sweeps").exists()
    cifar(tmp_path / "data", rows=5)
    code, _, err = sa(*words)
    assert code == 0, err
    folders = sorted(Path("runs").iterdir())
    for kept in folders:  # as if frozen by the driver on a machine that has the data
        for path in kept.iterdir():
            if path.name != "config.yaml":
                path.unlink()
    (tmp_path / "data").rename("elsewhere")
    code, _, err = sa("--frozen", *map(str, folders))
    assert code == 1 and "use dataset=digits" in err
    for kept in folders:
        assert record.state(kept) == "skipped"
        assert "cifar-10-batches-py" in record.load_status(kept)["error"]
    code, _, err = sa(*words, "dataset.root=elsewhere")  # replaces the recorded folder
    assert code == 0, err
    assert sa("--frozen", *map(str, folders))[0] == 0
    assert [record.state(kept) for kept in folders] == ["done", "done"]


def test_a_run_whose_parent_lacks_data_is_skipped(sa, tmp_path):
    cifar(tmp_path / "data", rows=5)
    words = ["dataset=cifar10", "dataset.n=20", "model=cnn_relu", "analysis=[]", "tracker=none"]
    code, out, err = sa(*words, "init=ste_500", "init.steps=1", "init.batch_size=10")
    assert code == 0, err
    config = yaml.safe_load((folder(out) / "config.yaml").read_text())
    shutil.rmtree("runs")
    shutil.rmtree("data")
    with pytest.raises(NoData):
        execute.execute(config)
    assert [record.state(kept) for kept in Path("runs").iterdir()] == ["skipped", "skipped"]
