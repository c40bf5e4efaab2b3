"""Every option and every experiment runs from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import ROOT, SMALL, folder, result
from conftest import cifar, component, fashion

from sa.config.catalogue import options
from sa.config.study import sizes, takes_images, with_images
from sa.figure.draw import file_name


@pytest.mark.parametrize("estimator", options("estimator"))
def test_every_estimator_runs(sa, estimator):
    words = ["estimator.samples=8"] if estimator.startswith("nes") else []
    if component("estimator", estimator).target == "stochastic":
        words = ["quantizer=sr_act"] if estimator.startswith("sr") else ["quantizer=sba"]
    if estimator in ("flow", "spectral"):  # they need a loss with a curvature
        words = ["quantizer=fp", "analysis=[]"]
    code, out, err = sa(*SMALL, f"estimator={estimator}", *words)
    assert code == 0, err
    got = result(out)
    assert got["target"] == component("estimator", estimator).target
    assert np.isfinite([got["value"], got["grad_norm"], got["evals"]]).all()


STOCHASTIC = [x for x in options("estimator") if component("estimator", x).target == "stochastic"]


@pytest.mark.parametrize("estimator", STOCHASTIC)
def test_an_estimator_of_random_units_is_refused_for_a_network_without_them(sa, estimator):
    code, _, err = sa(*SMALL, f"estimator={estimator}")
    assert code == 2 and "sa: estimator: this estimator samples random units" in err


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("quantizer", options("quantizer"))
def test_every_quantizer_trains(sa, quantizer, model):
    size = "hidden=[5,4]" if model == "mlp" else "channels=[2,3]"
    words = [f"model={model}", f"model.{size}", "dataset=digits", f"quantizer={quantizer}"]
    code, out, err = sa(*words, "analysis=[]", "steps=2", "tracker=none", "batch_size=20")
    assert code == 0, err
    got = result(out)
    assert np.isfinite([got["train/loss"], got["test/loss"]]).all()
    assert 0 <= got["test/accuracy"] <= 1


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_validates(sa, experiment, tmp_path, monkeypatch):
    fashion(tmp_path / "there" / "fashion-mnist", monkeypatch, rows=2)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there"))
    for first in ([], ["-m"]):
        code, out, err = sa(*first, f"experiment={experiment}", "sweep.dry_run=true")
        assert code == 0, err
        assert not Path("runs").exists() and not Path("sweeps").exists()


SIZES = [(x, size) for x in options("experiment") for size in sizes(x) if size != "quick"]


@pytest.mark.parametrize(("experiment", "size"), SIZES)
def test_every_other_size_composes_and_validates(sa, experiment, size, tmp_path, monkeypatch):
    cifar(tmp_path / "there", rows=2)
    fashion(tmp_path / "there" / "fashion-mnist", monkeypatch, rows=2)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there"))
    one = ["seed=0"] if "seed" in sizes(experiment)[size] else []  # of ten seeds or more
    typed = ["-m", f"experiment={experiment}", f"size={size}", *one, "sweep.dry_run=true"]
    code, out, err = sa(*typed)
    assert code == 0 and f"-{size}: " in out, err
    assert "cifar" not in err and not Path("runs").exists() and not Path("sweeps").exists()


WITH_IMAGES = [x for x in options("experiment") if takes_images(x)]


def test_every_study_whose_full_size_names_cifar10_takes_other_images():
    assert WITH_IMAGES == [x for x in options("experiment") if "cifar10" in str(sizes(x))]
    assert len(WITH_IMAGES) >= 12


@pytest.mark.parametrize("experiment", WITH_IMAGES)
def test_every_full_size_of_cifar10_validates_with_fashion_mnist(
    sa, experiment, tmp_path, monkeypatch
):
    fashion(tmp_path / "there" / "fashion-mnist", monkeypatch, rows=2)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there"))
    words = ["-m", f"experiment={experiment}", "size=full", "seed=0", "sweep.dry_run=true"]
    code, out, err = sa(*words, "images=fashion_mnist")
    assert code == 0 and "-full-fashion_mnist: " in out, err
    assert "cifar" not in err + out.replace("cifar_depth", "") and not Path("sweeps").exists()


@pytest.mark.parametrize(("words", "why"), [
    (["-m", "experiment=basins", "size=full", "images=mnist"],
     "images=mnist: there are images=cifar10 and images=fashion_mnist"),
    (["-m", "experiment=basins", "images=fashion_mnist"], "in size=full of a study"),
    (["dataset=digits", "images=fashion_mnist"], "for other runs type dataset=fashion_mnist"),
    (["-m", "experiment=descent_dims", "size=full", "images=fashion_mnist"],
     "size=full of experiment=descent_dims has no CIFAR-10 to replace"),
    (["-m", "experiment=basins", "size=full", "images=fashion_mnist", "dataset=digits"],
     "images=fashion_mnist and dataset=digits: both choose the data"),
])  # fmt: skip
def test_images_that_a_study_cannot_take_are_refused(sa, words, why):
    code, _, err = sa(*words, "sweep.dry_run=true")
    assert code == 2 and why in err, err


def test_images_keep_the_sizes_of_cifar10_and_the_shape_of_its_images():
    full = {"dataset": ["cifar10_5k", "cifar10_20k"], "~dataset.size": None, "steps": 6}
    made = with_images(full, "fashion_mnist")
    assert made == {
        "dataset": ["fashion_mnist_5k", "fashion_mnist_20k"], "steps": 6,
        "dataset.size": 32, "dataset.channels": 3,
    }  # fmt: skip
    assert with_images(full, "cifar10") == full and with_images({"a": 1}, "cifar10") == {"a": 1}
    names = options("dataset")
    assert {f"fashion_mnist{x}" for x in ("", "_1k", "_5k", "_20k")} <= set(names)


LEAST = {  # each study's settings that make it as small as possible
    "cosine_precision": "dim=3 dataset.n=64 seed=0",
    "stochastic_rounding_pretrained": "dim=3 dataset.n=300 seed=0 init.steps=3 init.batch_size=64",
    "digits_bits": "epochs=1 batch_size=700 quantizer.weight.bits=1,32 seed=0",
    "digits_xnor": "epochs=1 batch_size=479 model.init_channels=1 seed=0",
    "fixed_point": "epochs=1 batch_size=700 quantizer.weight.range=max seed=0",
    "lr_batch_bits": "epochs=1 batch_size=700 stored.bits=6 optimizer.lr=0.01 seed=0",
    "ema_underflow": "dim=8 steps=4 stored.bits=8 seed=0",
    "eigenvectors": "model=fc_tanh model.hidden=[3] steps=2 analyse_every=1 "
    "analysis.eigenvectors.k=2",
    "estimator_basins": "model.hidden=[2] ends.first.steps=1 ends.second.steps=1 seed=0 "
    "analysis.interpolation.points=2",
    "downhill": "dim=3 dataset.n=64 init=none,settled init.steps=2 init.batch_size=16 seed=0 "
    "analysis.alignment.references.smoothed.sigma=1 analysis.descent.points=5 "
    "analysis.descent.nulls=1",
    "fogzo_mnist": "model.hidden=[2] steps=2 evaluate_every=1 seed=0",
    "memorised_bits": "steps=1 quantizer.weight.bits=1,32 model.hidden=[64,64] seed=0",
}  # fmt: skip


@pytest.mark.parametrize("experiment", list(LEAST))
def test_a_study_ends_with_its_figures_and_verdicts(sa, experiment):
    words = LEAST[experiment].split()
    if "stochastic" in experiment:
        words += ["analysis.descent.points=5", "analysis.descent.nulls=1", "batch_size=256"]
        words += ["quantizer.activation.normaliser=max"]
    code, out, err = sa("-m", f"experiment={experiment}", *words, "tracker=none")
    assert code == 0 and "note: figure" not in out, (out, err)
    study = folder(out, "sweep")
    node = yaml.safe_load((ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text())
    for kind in node["figure"]:
        assert list(study.glob(f"figures/**/{file_name(kind)}.png")), kind
    judged = json.loads((study / "expectations.json").read_text())
    assert [j["id"] for j in judged] == [e["id"] for e in node["expectations"]]
    assert any(j["observed"] is not None for j in judged)
