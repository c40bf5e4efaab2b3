"""Tests of images in idx files: their names, their values, and files that are damaged."""

import gzip

import numpy as np
import pytest
import torch
from commands import folder as run_folder
from conftest import component, idx
from hydra.errors import InstantiationException

from sa.dataset import _idx
from sa.params import stream
from sa.types import BadData, MissingData


def images(rows, seed=0):
    """Return images of 5 x 4 pixels and labels 0 to 2."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (rows, 5, 4), dtype=np.uint8), np.arange(rows, dtype=np.uint8) % 3


def written(root, prefix="", test="t10k", end=".gz", first=0):
    """Write four files, of 12 and of 6 images; return their arrays."""
    root.mkdir(parents=True, exist_ok=True)
    arrays = [*images(12), *images(6, 1)]
    for at, (part, kind) in enumerate((s, k) for s in ("train", test) for k in (3, 1)):
        name = f"{part}-{'images' if kind == 3 else 'labels'}-idx{kind}-ubyte{end}"
        idx(root / f"{prefix}{name}", arrays[at] if kind == 3 else arrays[at] + first)
    return arrays


def load(root, **settings):
    return component("dataset", "idx", root=str(root), **settings).load(stream(0))


@pytest.mark.parametrize(
    ("prefix", "test", "end"), [("", "t10k", ".gz"), ("emnist-letters-", "test", "")]
)
def test_images_are_standardised_by_all_training_pixels(tmp_path, prefix, test, end):
    x, y, unseen, truth = written(tmp_path, prefix, test, end)
    got = load(tmp_path, prefix=prefix)
    assert got.train.inputs.shape == (12, 1, 5, 4) and got.train.targets.tolist() == y.tolist()
    for batch, pixels in ((got.train, x), (got.test, unseen)):
        expected = (pixels[:, None] - x.mean()) / x.std()
        np.testing.assert_allclose(batch.inputs, expected, rtol=0, atol=1e-12)
    assert got.test.targets.tolist() == truth.tolist()
    few = load(tmp_path, prefix=prefix, n=2)
    assert torch.equal(few.train.inputs, got.train.inputs[:2]) and few.test.rows == 6
    turned = load(tmp_path, prefix=prefix, transpose=True).train.inputs
    assert torch.equal(turned, got.train.inputs.transpose(2, 3))


def test_names_with_a_dot_before_idx_are_found(tmp_path):
    written(tmp_path)
    before = load(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert torch.equal(load(tmp_path).train.inputs, before.train.inputs)


def test_labels_from_1_need_first_label_1(tmp_path):
    _, y, _, _ = written(tmp_path, first=1)
    with pytest.raises(BadData, match="smallest label is 1, and first_label=0; set dataset.first"):
        load(tmp_path)
    data = component("dataset", "idx", root=str(tmp_path), first_label=1)
    assert data.classes == 3 and data.load(stream(0)).train.targets.tolist() == y.tolist()


def test_missing_files_are_named_with_the_prefixes_that_are_there(tmp_path):
    with pytest.raises(BadData, match="dataset.root=DIR"):
        component("dataset", "idx").check()
    written(tmp_path, "emnist-letters-", "test")
    with pytest.raises(MissingData, match="dataset.prefix=emnist-letters-"):
        component("dataset", "idx", root=str(tmp_path)).check()


def test_more_images_than_there_are_are_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(BadData, match="n=13: .*train-images-idx3-ubyte.gz has 12 images; set n=12"):
        load(tmp_path, n=13)
    with pytest.raises(InstantiationException):
        load(tmp_path, n=0)


def header(*parts):
    return lambda content: bytes(parts) + content[len(parts) :]


BAD = {
    "text": (lambda content: b"<html>no</html>", "does not begin with two zero bytes"),
    "empty": (lambda content: b"", "does not begin with two zero bytes"),
    "floats": (header(0, 0, 13), "values of type 13; expected 8"),
    "dimensions": (header(0, 0, 8, 1), "has 1 dimensions; expected 3"),
    "short": (lambda content: content[:-1], "announces 12 x 5 x 4 values, which take 256 bytes"),
    "long": (lambda content: content + b"\0", "has 257 bytes"),
    "only a header": (lambda content: content[:6], "has 6 bytes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_error_for_a_damaged_file_names_it_and_the_fault(tmp_path, kind):
    written(tmp_path, end="")
    file = tmp_path / "train-images-idx3-ubyte"
    change, told = BAD[kind]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(_idx.Damaged, match=f"train-images-idx3-ubyte.*{told}"):
        _idx.read(file, _idx.IMAGES)
    with pytest.raises(BadData, match=told):
        component("dataset", "idx", root=str(tmp_path)).check()


@pytest.mark.parametrize("change", [lambda c: c[:-9], lambda c: b"no gzip", lambda c: c[:40] + c])
def test_the_error_for_a_damaged_gz_file_names_it(tmp_path, change):
    written(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(_idx.Damaged, match="t10k-images-idx3-ubyte.gz is damaged"):
        _idx.read(file, _idx.IMAGES)


def test_labels_for_another_number_of_images_are_refused(tmp_path):
    written(tmp_path)
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8))
    with pytest.raises(BadData, match="11 labels for 12 images"):
        load(tmp_path)


def test_a_run_is_known_by_the_content_of_its_files(sa, tmp_path):
    words = ["dataset=idx", "model=mlp", "model.outputs=3", "analysis=[]", "tracker=none"]
    for place, end in (("here", ".gz"), ("there", "")):
        written(tmp_path / place, end=end)
    code, out, err = sa(*words, f"dataset.root={tmp_path / 'here'}")
    assert code == 0, err
    assert run_folder(sa(*words, f"dataset.root={tmp_path / 'there'}")[1]) == run_folder(out)
    file = tmp_path / "there" / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-2] + b"\0\1")
    assert run_folder(sa(*words, f"dataset.root={tmp_path / 'there'}")[1]) != run_folder(out)
    assert gzip.decompress((tmp_path / "here" / f"{file.name}.gz").read_bytes())[:2] == b"\0\0"
