"""Tests of Fashion-MNIST: facts about the real images, and files that are missing or damaged."""

import gzip
import hashlib

import numpy as np
import pytest
import torch
from conftest import component, fashion

from sa.dataset import _fashion_mnist, _pixels
from sa.params import stream
from sa.types import BadData, MissingData

real = pytest.mark.skipif(
    _fashion_mnist.find("data") is None,
    reason="the images are not here: apt install dataset-fashion-mnist",
)


def load(name="fashion_mnist", **settings):
    return component("dataset", name, **settings).load(stream(0))


def raw():
    """Return raw images and labels of both splits."""
    return component("dataset", "fashion_mnist")._files()


@real
def test_sums_of_the_training_pixels_are_the_known_integers():
    total, squares = _pixels.sums(raw()[0])
    assert int(total.sum()) == 3_431_114_169 and int(squares.sum()) == 631_470_052_347
    per_pixel = np.stack([total.flatten().numpy(), squares.flatten().numpy()]).astype("<i8")
    assert hashlib.md5(per_pixel.tobytes()).hexdigest() == "604f39d4d35629f3048586a1d7b616e6"
    mean, std = _pixels.moments(raw()[0], pooled=True)
    assert (float(mean), float(std)) == (72.94035223214286, 90.02118235130526)


@real
def test_class_counts_and_first_labels_are_the_known_ones():
    train, test = load("fashion_mnist_1k")
    assert train.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test.targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    counts = {
        "fashion_mnist_1k": [107, 104, 86, 92, 95, 100, 100, 115, 102, 99],
        "fashion_mnist_5k": [457, 556, 504, 501, 488, 493, 493, 512, 490, 506],
    }
    for name, expected in counts.items():
        got = load(name)
        assert got.train.targets.bincount().tolist() == expected
        assert got.test.targets.bincount().tolist() == [1000] * 10
    assert component("dataset", "fashion_mnist_20k").rows == 20_000
    assert raw()[1].bincount().tolist() == [6000] * 10


@real
def test_images_of_32_are_those_of_28_with_a_border_that_is_black_before_normalising():
    small, large = (load("fashion_mnist_1k", size=size) for size in (28, 32))
    black = -72.94035223214286 / 90.02118235130526
    for one, padded in zip(small, large, strict=True):
        assert torch.equal(padded.inputs[..., 2:-2, 2:-2], one.inputs)
        edge = padded.inputs.clone()
        edge[..., 2:-2, 2:-2] = black
        assert (edge - black).abs().max() < 1e-15
    pixels = raw()[0][:1000].double()
    torch.testing.assert_close(small.train.inputs, (pixels - 72.94035223214286) / 90.02118235130526)


@real
def test_three_channels_are_equal():
    one, three = (load("fashion_mnist_1k", size=32, channels=c) for c in (1, 3))
    assert three.train.inputs.shape == (1000, 3, 32, 32)
    assert torch.equal(three.train.inputs, one.train.inputs.repeat(1, 3, 1, 1))
    noise = load("fashion_mnist_1k", channels=3, corruption="gaussian").train.inputs
    assert torch.equal(noise[:, 0], noise[:, 2]) and not torch.equal(noise, three.train.inputs)


@real
def test_pixels_that_hardly_vary_get_huge_inputs_if_normalised_one_by_one():
    _, std = _pixels.moments(raw()[0], pooled=False)
    assert float(std[0, 0, 0]) == pytest.approx(0.0926, abs=1e-4) and int((std < 1).sum()) == 5
    train, test = load("fashion_mnist", normalise="pixel")
    assert train.inputs.mean(0).abs().max() < 1e-9
    assert float(train.inputs.max()) == pytest.approx(185.48, abs=0.01)
    assert float(test.inputs.max()) == pytest.approx(283.87, abs=0.01)


@real
def test_only_the_labels_of_the_training_split_are_corrupted_and_clean_gives_them_back():
    spoilt = component("dataset", "fashion_mnist_1k", corruption="shuffled")
    got, own = spoilt.load(stream(0)), spoilt.clean().load(stream(0))
    assert torch.equal(got.train.inputs, own.train.inputs)
    assert not torch.equal(got.train.targets, own.train.targets)
    assert torch.equal(got.test.targets, own.test.targets)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a few images, whose md5 nobody knows, on a machine without others."""
    monkeypatch.delenv("SA_DATA", raising=False)
    monkeypatch.setattr(_fashion_mnist, "DEBIAN", tmp_path / "debian")
    return fashion(tmp_path / "data" / "fashion-mnist", monkeypatch)


def test_files_are_found_in_root_then_sa_data_then_debians_folder(folder, tmp_path, monkeypatch):
    for place in (folder, folder.parent):
        assert _fashion_mnist.find(place) == _fashion_mnist.find(folder.parent)
    assert _fashion_mnist.find(tmp_path) is None
    monkeypatch.setenv("SA_DATA", str(folder.parent))
    assert _fashion_mnist.find(tmp_path / "other")[0].parent == folder
    monkeypatch.delenv("SA_DATA")
    monkeypatch.setattr(_fashion_mnist, "DEBIAN", folder)
    assert _fashion_mnist.find(tmp_path / "other")[0].parent == folder


def test_plain_and_compressed_files_hold_the_same_images(folder):
    before = load(root=str(folder))
    for file in list(folder.iterdir()):
        assert file.suffix == ".gz"
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    after = load(root=str(folder))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def test_the_error_for_missing_images_says_where_it_looked_and_how_to_get_them(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingData) as caught:
        component("dataset", "fashion_mnist", root=str(folder)).check()
    for word in (
        str(folder), "apt install dataset-fashion-mnist", "t10k-labels-idx1-ubyte",
        "python -m sa.data fetch fashion_mnist", "dataset.root=DIR", "SA_DATA=DIR",
        "zalandoresearch/fashion-mnist", "use dataset=digits to run offline",
    ):  # fmt: skip
        assert word in str(caught.value), word


def test_files_of_another_content_are_refused_by_the_md5_of_what_they_hold(folder, monkeypatch):
    name = "train-labels-idx1-ubyte"
    content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    monkeypatch.setitem(_fashion_mnist.FILES, name, hashlib.md5(content).hexdigest())
    (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    component("dataset", "fashion_mnist", root=str(folder)).check()
    (folder / f"{name}.gz").write_bytes(gzip.compress(content[:-1] + b"\1"))
    with pytest.raises(BadData, match=f"{name}.gz has other content.*sa.data fetch fashion_mnist"):
        component("dataset", "fashion_mnist", root=str(folder)).check()


def test_moments_of_a_channel_are_exact_beyond_64_bits():
    """n times the sum of squares of a split of CIFAR-10 or Fashion-MNIST needs 65 bits."""
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4000, 4000)
    mean, std = _pixels.moments(images, pooled=True)
    assert (float(mean), float(std)) == (127.5, 127.5)
    assert (2 * 4000**2) ** 2 * 127.5**2 > 2**63
