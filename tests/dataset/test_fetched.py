"""Data of torchvision and of the Hugging Face hub: fetched once, then read without the library."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from commands import folder, result
from PIL import Image

from sa import data
from sa.dataset.huggingface import HuggingFace
from sa.dataset.torchvision import Torchvision
from sa.params import stream
from sa.types import BadData, MissingData

WORDS = "model=mlp model.hidden=[6] estimator=ste steps=4 analysis=[] tracker=none".split()


def picture(i, mode="RGB", side=5):
    draw = np.random.default_rng(i)
    shape = (side, side) if mode == "L" else (side, side, 3)
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))


class Halves:
    """A dataset as torchvision's with train=."""

    made = 0

    def __init__(self, root, train=True, download=False):
        assert download and Path(root).is_dir()
        Halves.made += 1
        self.rows = range(30) if train else range(30, 42)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return picture(self.rows[i]), self.rows[i] % 3


class Named(Halves):
    """One with split=, grey images of two sizes."""

    def __init__(self, root, split="train", download=False):
        super().__init__(root, split == "train", download)

    def __getitem__(self, i):
        return picture(i, "L", 5 + i % 2), self.rows[i] % 3


class Offline:
    def __init__(self, root, train=True, download=False):
        raise OSError("no route to host")


class Column(list):
    """A column of the hub's library: it is read by slices."""


class Rows(dict):
    def __init__(self, features, **columns):
        super().__init__({k: Column(v) for k, v in columns.items()})
        self.features = features


def kind(name):
    return type(name, (), {})()


def dataset_info(name, timeout):
    if name != "lab/tiny":
        raise FileNotFoundError(f"{name} is not on the hub")


def load_dataset(name, config=None):
    assert name == "lab/tiny"
    if config == "numbers":
        features = {"x": kind("List"), "y": kind("Value")}
        return {"train": Rows(features, x=[[i, i + 0.5] for i in range(20)], y=[0.5] * 20)}
    features = {"image": kind("Image"), "label": kind("ClassLabel")}
    part = lambda a, b: Rows(  # noqa: E731
        features, image=[picture(i, "L") for i in range(a, b)], label=[i % 3 for i in range(a, b)]
    )
    return {"train": part(0, 30), "validation": part(30, 42)}


@pytest.fixture(autouse=True)
def libraries(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_DATA", raising=False)
    vision = types.SimpleNamespace(
        Halves=Halves, Named=Named, Offline=Offline, __all__=("Halves", "Named", "Offline")
    )
    monkeypatch.setitem(sys.modules, "torchvision.datasets", vision)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hub = types.SimpleNamespace(
        constants=types.SimpleNamespace(HF_HUB_OFFLINE=False),
        HfApi=lambda: types.SimpleNamespace(dataset_info=dataset_info),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    Halves.made = 0


def forget(monkeypatch):
    """Take both libraries away: an import of them fails."""
    for name in ("torchvision", "torchvision.datasets", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_fetched_dataset_is_trained_on_without_the_library(sa, monkeypatch, capfd):
    words = ["dataset=torchvision", "dataset.name=Halves", *WORDS]
    code, _, err = sa(*words)
    assert code == 2 and "to get it: python -m sa.data fetch torchvision:Halves" in err
    assert data.main(["fetch", "torchvision:Halves"]) == 0
    out = capfd.readouterr().out
    sha = Torchvision(name="Halves").digest()
    assert "data: data/torchvision/Halves.npz" in out and f"(sha {sha})" in out
    assert "dataset=torchvision dataset.name=Halves" in out and Halves.made == 2
    assert data.main(["fetch", "torchvision:Halves"]) == 0 and Halves.made == 2  # once
    assert [p.name for p in Path("data/torchvision").iterdir()] == ["Halves.npz"]
    forget(monkeypatch)
    code, out, err = sa(*words)
    assert code == 0 and result(out)["rows"] == 30, err
    assert {"train/accuracy", "test/accuracy"} <= set(result(out))
    Path("data").rename("elsewhere")
    assert folder(sa(*words, "dataset.root=elsewhere")[1]) == folder(out)  # by content, not place
    code, _, err = sa(*words, "dataset.root=elsewhere", "dataset.sha=0123456789abcdef")
    assert code == 2 and f"its content is {sha}, this run's was 0123456789abcdef" in err


def test_images_are_standardised_by_channel_and_keep_their_labels():
    data.main(["fetch", "torchvision:Halves"])
    made = Torchvision(name="Halves")
    train, test = made.load(stream(0))
    assert made.shape == (3, 5, 5) and made.classes == 3 and test.rows == 12
    assert train.inputs.mean((0, 2, 3)).abs().max() < 1e-12
    assert train.targets.tolist() == [i % 3 for i in range(30)]
    with np.load("data/torchvision/Halves.npz") as raw:
        assert raw["train_inputs"].dtype == np.uint8
        assert np.array_equal(raw["train_inputs"][4], np.asarray(picture(4)).transpose(2, 0, 1))


def test_a_damaged_file_is_fetched_again():
    data.main(["fetch", "torchvision:Halves"])
    file = Path("data/torchvision/Halves.npz")
    whole = file.read_bytes()
    for damaged in (b"no zip", whole[:-100], whole[:500] + b"?" + whole[501:]):
        file.write_bytes(damaged)
        with pytest.raises(BadData, match="delete it and fetch it again"):
            Torchvision(name="Halves").check()
        assert data.main(["fetch", "torchvision:Halves"]) == 0
        assert Torchvision(name="Halves").rows == 30


def test_images_of_several_sizes_need_one(capsys):
    assert data.main(["fetch", "torchvision:Named"]) == 1
    assert "type --size PIXELS to resize images" in capsys.readouterr().err
    assert data.main(["fetch", "torchvision:Named", "--size", "4"]) == 0
    assert Torchvision(name="Named").shape == (1, 4, 4)


def test_a_dataset_of_the_hub_has_its_own_splits_and_columns(capsys):
    assert data.main(["fetch", "huggingface:lab/tiny"]) == 0
    out = capsys.readouterr().out
    assert "data: data/huggingface/lab--tiny.npz" in out and "dataset.test=null" in out
    with pytest.raises(BadData, match="no split test; there are: train, validation. Set"):
        HuggingFace(name="lab/tiny").check()
    made = HuggingFace(name="lab/tiny", test="validation")
    assert made.shape == (1, 5, 5) and made.load(stream(0)).test.rows == 12
    assert HuggingFace(name="lab/tiny", test=None).load(stream(0)).test.rows == 6

    words = ["fetch", "huggingface:lab/tiny:numbers"]
    assert data.main(words) == 1
    assert "type --inputs COLUMN, one of x, y" in capsys.readouterr().err
    assert data.main([*words, "--inputs", "x", "--targets", "y"]) == 0
    made = HuggingFace(name="lab/tiny:numbers", test=None)
    assert (made.shape, made.classes, made.outputs, made.rows) == ((2,), None, 1, 16)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("torchvision:Nope", "there is no such dataset; there are: Halves, Named, Offline"),
        ("torchvision:Offline", "could not be fetched (OSError: no route to host)"),
        ("huggingface:lab/nope", "FileNotFoundError: lab/nope is not on the hub"),
        ("torchvision:../x/y y", "expected letters, digits and"),
    ],
)
def test_what_cannot_be_fetched_says_why_and_leaves_nothing(name, why, capsys):
    assert data.main(["fetch", name]) == 1
    err = capsys.readouterr().err
    assert why in err and "Traceback" not in err
    assert not [p for p in Path(".").rglob("*") if p.is_file()]


@pytest.mark.parametrize("extra", ["torchvision", "huggingface"])
def test_a_library_that_is_not_there_names_its_extra(extra, monkeypatch, capsys):
    forget(monkeypatch)
    assert data.main(["fetch", f"{extra}:x"]) == 1
    assert f"pip install 'sa-lab[{extra}]'" in capsys.readouterr().err


def test_names_and_files_that_are_none_are_refused(capsys):
    with pytest.raises(SystemExit):
        data.main(["fetch", "mnist"])
    assert (
        "expected cifar10, fashion_mnist, torchvision:CLASS or huggingface:OWNER/NAME"
        in capsys.readouterr().err
    )
    with pytest.raises(BadData, match="after python -m sa.data fetch torchvision:NAME"):
        Torchvision().check()
    with pytest.raises(MissingData, match="python -m sa.data fetch huggingface:lab/tiny"):
        HuggingFace(name="lab/tiny").check()
    Path("data/torchvision").mkdir(parents=True)
    Path("data/torchvision/Halves.npz").write_bytes(b"no zip")
    with pytest.raises(BadData, match="delete it and fetch it again"):
        Torchvision(name="Halves").check()


def test_torchvisions_own_images_are_read(monkeypatch):
    monkeypatch.undo()
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # of a build for another torch
        pytest.skip(f"torchvision cannot be imported here: {error}")

    class Few(datasets.FakeData):
        def __init__(self):
            super().__init__(12, (3, 6, 6), 2)

    from sa.dataset import _libraries

    monkeypatch.setattr(datasets, "Few", Few, raising=False)
    arrays = _libraries.torchvision("Few", Path("."))
    assert arrays["train_inputs"].shape == (12, 3, 6, 6)
    assert np.array_equal(arrays["train_inputs"][3], np.asarray(Few()[3][0]).transpose(2, 0, 1))
