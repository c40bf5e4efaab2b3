"""Tests of CIFAR-10 from its files: rows, normalisation, missing files and bad files."""

import os
import pickle

import numpy as np
import pytest
import torch
from conftest import CONF, cifar, component
from omegaconf import OmegaConf

from sa.dataset import _cifar
from sa.params import stream
from sa.types import MissingData

ROWS = 12  # in each of the six files


@pytest.fixture
def folder(tmp_path):
    return cifar(tmp_path, ROWS)


def load(folder, **settings):
    settings = {"n": 5 * ROWS} | settings
    return component("dataset", "cifar10", root=str(folder), **settings).load(stream(0))


def raw(folder, names=_cifar.TRAIN):
    """Return images (n, 3, 32, 32) and labels, read without the code under test."""
    parts = [pickle.loads((folder / n).read_bytes(), encoding="bytes") for n in names]
    images = np.concatenate([p[b"data"] for p in parts]).reshape(-1, 3, 32, 32)
    return images.astype(float), np.concatenate([p[b"labels"] for p in parts])


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("n", [1, 30, 5 * ROWS])
@pytest.mark.parametrize("normalise", ["pixel", "channel"])
def test_the_first_n_images_are_normalised_by_all_training_images(folder, inner, n, normalise):
    train, test = load(folder if inner else folder.parent, n=n, normalise=normalise)
    images, labels = raw(folder)
    unseen, truth = raw(folder, [_cifar.TEST])
    axes = 0 if normalise == "pixel" else (0, 2, 3)
    mean, std = images.mean(axes, keepdims=True), images.std(axes, keepdims=True)
    np.testing.assert_allclose(train.inputs, ((images - mean) / std)[:n], rtol=0, atol=1e-12)
    np.testing.assert_allclose(test.inputs, (unseen - mean) / std, rtol=0, atol=1e-12)
    assert train.targets.tolist() == labels[:n].tolist()
    assert test.targets.tolist() == truth.tolist() and test.rows == ROWS


def test_a_constant_pixel_becomes_zero(folder):
    for name in _cifar.FILES:
        content = pickle.loads((folder / name).read_bytes(), encoding="bytes")
        content[b"data"][:, 5] = 77
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    assert not load(folder).train.inputs[:, 0, 0, 5].any()


@pytest.mark.parametrize(
    ("name", "n"),
    [("cifar10", 50_000)] + [(f"cifar10_{k}k", 1000 * k) for k in (1, 2, 5, 10, 20)],
)
def test_options_of_subsets_differ_in_n_alone(name, n):
    plain = OmegaConf.to_container(OmegaConf.load(CONF / "dataset" / "cifar10.yaml"))
    assert OmegaConf.to_container(OmegaConf.load(CONF / "dataset" / f"{name}.yaml")) == plain | {
        "n": n
    }
    assert component("dataset", name).rows == n


def test_corruption_changes_the_training_split_alone(folder):
    clean, got = load(folder), load(folder, random_labels=True)
    assert not torch.equal(clean.train.targets, got.train.targets)
    assert torch.equal(clean.test.targets, got.test.targets)
    noise = load(folder, corruption="gaussian")
    assert not torch.equal(clean.train.inputs, noise.train.inputs)
    assert torch.equal(clean.test.inputs, noise.test.inputs)


def test_files_pickled_by_python_3_are_read(folder):
    name = _cifar.TEST
    content = pickle.loads((folder / name).read_bytes(), encoding="bytes")
    plain = {k.decode(): v for k, v in content.items()}
    before = load(folder).test.inputs
    (folder / name).write_bytes(pickle.dumps(plain, protocol=4))
    assert torch.equal(load(folder).test.inputs, before)


def test_more_images_than_the_files_hold_are_refused(folder):
    with pytest.raises(ValueError, match="n=61: .* holds 60 training images"):
        load(folder, n=61)


@pytest.mark.parametrize("gone", ["data_batch_3", "test_batch", "all"])
def test_the_error_for_missing_files_names_the_folder_the_files_and_the_source(folder, gone):
    for name in _cifar.FILES if gone == "all" else [gone]:
        (folder / name).unlink()
    data = component("dataset", "cifar10", root=str(folder.parent))
    with pytest.raises(MissingData) as caught:
        data.check()
    told = str(caught.value)
    for word in (
        str(folder), str(folder.parent), "data_batch_1", "data_batch_5", "test_batch",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a", "use dataset=digits to run offline",
        "python -m sa.data fetch cifar10",
    ):  # fmt: skip
        assert word in told, word
    with pytest.raises(MissingData):
        data.load(stream(0))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_runs_nothing(folder, tmp_path):
    trap = tmp_path / "trap"
    content = {b"labels": [0], b"data": Evil(str(trap))}
    blob = pickle.dumps(content, protocol=2)
    (folder / "data_batch_2").write_bytes(blob)
    with pytest.raises(_cifar.Damaged, match=r"data_batch_2 .*posix.mkdir, which is not allowed"):
        load(folder)
    assert not trap.exists()
    pickle.loads(blob)  # unpickling does create the folder
    assert trap.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "numpy.load", "os.system"])
def test_a_pickle_that_names_other_functions_than_an_array_needs_is_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "batch"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(_cifar.Damaged, match=name):
        _cifar.read(path)


def changed(**parts):
    def write(path):
        content = pickle.loads(path.read_bytes(), encoding="bytes")
        content |= {k.encode(): v for k, v in parts.items()}
        path.write_bytes(pickle.dumps(content, protocol=2))

    return write


BAD = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:20_000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "list": lambda path: path.write_bytes(pickle.dumps([1, 2], protocol=2)),
    "no labels": lambda path: path.write_bytes(pickle.dumps({b"data": 1}, protocol=2)),
    "few labels": changed(labels=[0] * (ROWS - 1)),
    "label 10": changed(labels=[10] * ROWS),
    "label -1": changed(labels=[-1] * ROWS),
    "label text": changed(labels=["0"] * ROWS),
    "grey": changed(data=np.zeros((ROWS, 1024), np.uint8)),
    "floats": changed(data=np.zeros((ROWS, 3072))),
    "objects": changed(data=np.zeros((ROWS, 3072), object)),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_error_for_a_bad_file_names_it_and_what_to_do(folder, kind):
    BAD[kind](folder / "data_batch_4")
    with pytest.raises(_cifar.Damaged, match="data_batch_4 .*python -m sa.data fetch cifar10"):
        load(folder)
