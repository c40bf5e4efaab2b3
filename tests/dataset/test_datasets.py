"""Tests that every dataset yields its declared rows and depends on its random stream alone."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import cifar, component, fashion, idx, options
from hydra.errors import InstantiationException
from PIL import Image

from sa.dataset._corrupt import corrupt
from sa.dataset.digits import Digits
from sa.dataset.sinc import Sinc
from sa.model.fc import FC
from sa.objective.prepare import prepare
from sa.objective.task import Mismatch, Task
from sa.params import stream
from sa.types import Batch


def own(name, folder):
    """Write the files of a dataset that reads files and return its settings; {} for others."""
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    if name == "arrays":
        np.savez(folder / "my.npz", inputs=x, targets=y)
        return {"path": str(folder / "my.npz")}
    if name == "table":
        pd.DataFrame(x, columns=list("abcde")).assign(kind=y).to_csv(folder / "my.csv", index=False)
        return {"path": str(folder / "my.csv"), "target": "kind"}
    if name == "images":
        for i, label in enumerate(y):
            (folder / f"class{label}").mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"class{label}/{i}.png")
        return {"path": str(folder)}
    if name in ("torchvision", "huggingface"):
        (folder / name).mkdir()
        arrays = {"train_inputs": x, "train_targets": y, "test_inputs": x, "test_targets": y}
        np.savez(folder / name / "lab--my.npz", **arrays)
        return {"name": "lab/my", "root": str(folder)}
    if name == "idx":
        for part in ("train", "t10k"):
            idx(folder / f"{part}-images-idx3-ubyte", np.zeros((60, 4, 4), np.uint8))
            idx(folder / f"{part}-labels-idx1-ubyte", y.astype(np.uint8))
        return {"root": str(folder)}
    return {}


@pytest.mark.parametrize("name", options("dataset"))
def test_every_dataset_yields_its_declared_shape_classes_and_rows(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SA_DATA", str(tmp_path))
    if name.startswith("cifar10"):
        cifar(tmp_path)
    if name.startswith("fashion_mnist"):
        fashion(tmp_path / "fashion-mnist", monkeypatch)
    files = name.startswith(("cifar10", "fashion_mnist"))
    settings = {"n": 40} if files else own(name, tmp_path)
    data = component("dataset", name, **settings)
    one, two = data.load(stream(0, "data")), data.load(stream(0, "data"))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        assert tuple(a.inputs.shape[1:]) == tuple(data.shape) and a.inputs.dtype == torch.float64
        assert one.train.rows == data.rows
        assert len(a.inputs) == len(a.targets) and a.inputs.isfinite().all()
        if data.classes:
            assert a.targets.dtype == torch.int64
            assert a.targets.unique().tolist() == list(range(data.classes))


def test_gaussian_inputs_have_mean_0_and_variance_1_in_two_different_splits():
    train, test = component("dataset", "gaussian", dim=4, n=20_000).load(stream(0))
    assert abs(float(train.inputs.mean())) < 4 / 80_000**0.5
    assert abs(float(train.inputs.var()) - 1) < 4 * (2 / 80_000) ** 0.5
    assert not torch.equal(train.inputs, test.inputs)
    assert train.targets.shape == (20_000, 0)


def test_digits_have_one_stratified_split_and_standardised_inputs():
    train, test = component("dataset", "digits").load(stream(0))
    assert (train.rows, test.rows) == (1437, 360)
    assert abs(float(train.inputs.mean())) < 1e-9 and abs(float(train.inputs.std()) - 1) < 1e-9
    counts = torch.bincount(test.targets).tolist()
    assert min(counts) >= 34 and max(counts) <= 38
    other = component("dataset", "digits").load(stream(7))
    assert torch.equal(other.test.inputs, test.inputs)  # one split for every seed


@pytest.mark.parametrize("size", [16, 32])
def test_digits_are_resized_to_the_set_size(size):
    data = component("dataset", "digits", size=size)
    assert data.shape == (1, size, size)
    assert data.load(stream(0)).train.inputs.shape == (1437, 1, size, size)


def test_a_million_gaussian_rows_take_less_than_twice_their_size_in_memory():
    code = """
import resource
from sa.dataset.gaussian import Gaussian
from sa.model.toy_mlp import ToyMLP
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.types import Slots
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = ToyMLP(quantizer=Slots(Identity(), Sign()), dim=8)
prepare(Task(model=model, dataset=Gaussian(dim=8, n=1000)), 0)
before = peak()
data = prepare(Task(model=model, dataset=Gaussian(dim=8, n=1_000_000)), 0).data
size = sum(t.numel() * t.element_size() for b in data for t in b)
print(size, peak() - before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, taken = map(int, told.stdout.split())
    assert size == 2 * 8 * 9_000_000 and taken < 2 * size, (size, taken)


@pytest.mark.parametrize(("name", "k"), [("sinc", 5), ("sinc_pi", 5 * math.pi)])
def test_sinc_targets_are_sin_kx_over_kx_on_an_even_grid(name, k):
    train, test = component("dataset", name, n=201).load(stream(0))
    x = train.inputs
    assert (float(x[0]), float(x[-1])) == (-1, 1)
    torch.testing.assert_close(train.targets, (k * x).sin() / (k * x))
    three = component("dataset", name, n=3).load(stream(0)).train
    assert three.inputs[1] == 0 and three.targets[1] == 1  # the limit
    torch.testing.assert_close(test.inputs, x[:-1] + 0.005)  # between the points
    torch.testing.assert_close(test.targets, (k * test.inputs).sin() / (k * test.inputs))
    wide = component("dataset", name, low=-3, high=4, n=8).load(stream(0)).train.inputs
    assert wide.flatten().tolist() == [-3, -2, -1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("degree", [0, 1, 3, 4, 5])
def test_chebyshev_targets_are_cos_of_n_arccos_x(degree):
    train, test = component("dataset", "chebyshev", degree=degree).load(stream(0))
    assert train.inputs.shape == train.targets.shape == (20, 1)
    for batch in (train, test):
        torch.testing.assert_close(batch.targets, (degree * batch.inputs.acos()).cos())


def test_linear_inputs_are_white_and_targets_linear():
    train, test = component("dataset", "linear").load(stream(0))
    assert train.inputs.shape == train.targets.shape == (50, 50)
    gram = train.inputs.T @ train.inputs
    torch.testing.assert_close(gram, 50 * torch.eye(50, dtype=torch.float64))
    a = torch.linalg.lstsq(train.inputs, train.targets).solution
    torch.testing.assert_close(test.inputs @ a, test.targets)
    assert abs(float(a.std()) - 1) < 4 / 2500**0.5 / 2**0.5


# Training sets with corrupted rows


def spoilt(**settings):
    clean = component("dataset", "digits").load(stream(0))
    got = component("dataset", "digits", **settings).load(stream(0))
    assert torch.equal(got.test.inputs, clean.test.inputs)  # the test split is not touched
    assert torch.equal(got.test.targets, clean.test.targets)
    return clean.train, got.train


@pytest.mark.parametrize("settings", [{"corruption": "random"}, {"random_labels": True}])
def test_random_labels_agree_with_the_true_ones_by_chance_alone(settings):
    clean, got = spoilt(**settings)
    assert torch.equal(got.inputs, clean.inputs)
    kept = float((got.targets == clean.targets).double().mean())
    assert abs(kept - 0.1) < 4 * (0.09 / 1437) ** 0.5
    other = component("dataset", "digits", **settings).load(stream(1)).train
    assert not torch.equal(other.targets, got.targets)


def test_partial_corruption_redraws_the_set_fraction_of_labels():
    clean, got = spoilt(corruption="partial", fraction=0.3)
    kept = float((got.targets == clean.targets).double().mean())
    assert abs(kept - (0.7 + 0.03)) < 4 * (0.73 * 0.27 / 1437) ** 0.5
    clean, got = spoilt(corruption="partial", fraction=0)
    assert torch.equal(got.targets, clean.targets)


def test_shuffled_labels_keep_their_counts():
    clean, got = spoilt(corruption="shuffled")
    assert torch.equal(torch.bincount(got.targets), torch.bincount(clean.targets))
    assert float((got.targets == clean.targets).double().mean()) < 0.15


def test_shuffled_pixels_share_one_permutation_and_random_pixels_have_one_for_each_image():
    clean, got = spoilt(corruption="shuffled_pixels")
    old, new = clean.inputs.flatten(1), got.inputs.flatten(1)
    moved = [(new[:, [j]] == old).all(0) for j in range(64)]
    sources = [m.nonzero().flatten().tolist() for m in moved]
    assert all(sources) and sum(j in s for j, s in enumerate(sources)) < 16
    clean, got = spoilt(corruption="random_pixels")
    old, new = clean.inputs.flatten(1), got.inputs.flatten(1)
    assert torch.equal(new.sort(1).values, old.sort(1).values)
    assert sum(bool((new[:, [j]] == old).all(0).any()) for j in range(64)) == 0
    assert torch.equal(got.targets, clean.targets)


@pytest.mark.parametrize("kind", ["shuffled_pixels", "random_pixels"])
def test_channels_of_a_pixel_stay_together(kind):
    x = torch.arange(2 * 3 * 4).double().view(2, 3, 2, 2)
    got = corrupt(Batch(x, torch.zeros(2)), kind, 0.5, 10, stream(0)).inputs
    assert torch.equal(got[:, 1] - got[:, 0], x[:, 1] - x[:, 0])
    assert torch.equal(got[:, 2] - got[:, 0], x[:, 2] - x[:, 0])


def test_gaussian_corruption_keeps_the_mean_and_spread_of_the_inputs():
    clean, got = spoilt(corruption="gaussian")
    n = got.inputs.numel()
    assert abs(float(got.inputs.mean() - clean.inputs.mean())) < 4 / n**0.5
    assert abs(float(got.inputs.std() - clean.inputs.std())) < 4 / n**0.5
    kurtosis = float(got.inputs.pow(4).mean()) - 3
    assert abs(kurtosis) < 4 * (24 / n) ** 0.5


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("digits", {"random_labels": True, "corruption": "gaussian"}, "set one of them"),
        ("digits", {"fraction": 1.5}, "fraction"), ("digits", {"corruption": "x"}, "shuffled"),
        ("cifar10", {"n": 50_001}, "n"), ("cifar10", {"normalise": "row"}, "pixel"),
        ("fashion_mnist", {"n": 60_001}, "n"), ("fashion_mnist", {"size": 30}, "32"),
        ("fashion_mnist", {"random_labels": True, "corruption": "gaussian"}, "set one of them"),
        ("sinc", {"low": 1, "high": 1}, "less than high"), ("linear", {"n": 49}, "as many rows"),
    ],
)  # fmt: skip
def test_settings_that_do_not_work_are_refused(name, wrong, told):
    with pytest.raises(InstantiationException) as caught:
        component("dataset", name, **wrong)
    assert told in str(caught.value.__cause__)


def test_a_model_with_another_number_of_outputs_than_targets_is_refused():
    with pytest.raises(Mismatch, match="model.outputs=1"):
        Task(model=component("model", "mlp_relu", outputs=2), dataset=Sinc()).check()


@pytest.mark.parametrize("criterion", ["ce", "mse"])
@pytest.mark.parametrize("how", ["partial", "random", "shuffled", "none", "gaussian"])
def test_the_fitted_share_is_the_share_of_wrong_labels_that_the_network_predicts(how, criterion):
    task = Task(model=FC(shape=(1, 8, 8), hidden=(9,)), dataset=Digits(corruption=how),
                criterion=criterion)  # fmt: skip
    p = prepare(task, 3)
    own = Digits().load(torch.Generator()).train.targets
    given = p.data.train.targets.argmax(1) if criterion == "mse" else p.data.train.targets
    outputs = p.network(p.data.train.inputs).argmax(1)
    told = p.evaluation.evaluate(p.params)
    if how in ("none", "gaussian"):
        assert torch.equal(own, given) and "train/fitted" not in told
        return
    wrong = own != given
    assert 0.4 * 0.9 < wrong.double().mean() < 0.95
    law = float((outputs == given)[wrong].double().mean())
    assert told["train/fitted"] == pytest.approx(law) and "test/fitted" not in told
