"""Tests of `dataset=arrays`: the content of the file names the run, and bad rows are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import folder, result

from sa.dataset import _own
from sa.dataset.arrays import Arrays
from sa.params import stream
from sa.record import run as record
from sa.types import BadData, MissingData


def rows(n=60, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 5))
    return {"inputs": x, "targets": (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)}


def saved(path, /, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


WORDS = "dataset=arrays model=mlp model.hidden=[8] estimator=ste steps=20 analysis=[] tracker=none"


def test_a_training_on_an_npz_file_is_named_by_the_content_of_the_file(sa):
    data = rows()
    saved("my.npz", **data)
    words = [*WORDS.split(), "dataset.path=my.npz"]
    code, out, err = sa(*words)
    assert code == 0, err
    first, got = folder(out), result(out)
    assert got["rows"] == 48 and got["test/accuracy"] > 1 / 3
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["shape"] == [5] and config["dataset"]["classes"] == 3
    assert config["dataset"]["sha"] == _own.sha(data)
    assert config["dataset"]["path"] == str(Path("my.npz").absolute())

    written = (first / "result.json").stat().st_mtime_ns
    backwards = dict(reversed(data.items())) | {"inputs": np.asfortranarray(data["inputs"])}
    saved("other.npz", compressed=True, **backwards)
    for again in (words, [*words[:-1], "dataset.path=other.npz"], [*words, "model.shape=[5]"]):
        code, out, err = sa(*again)
        assert code == 0 and folder(out) == first, err
    assert (first / "result.json").stat().st_mtime_ns == written  # nothing was computed
    assert folder(sa(*words, "dataset.test=0.3")[1]) != first


def test_a_run_whose_data_file_has_changed_is_refused(sa):
    saved("my.npz", **rows())
    words = [*WORDS.split(), "dataset.path=my.npz"]
    first = folder(sa(*words)[1])
    old, new = _own.sha(rows()), _own.sha(rows(seed=1))
    (first / "result.json").unlink()
    saved("my.npz", **rows(seed=1))
    for again in (["--frozen", str(first)], [*words, f"dataset.sha={old}"]):
        code, _, err = sa(*again)
        # a worker that fails writes its error into the run's folder
        err = record.load_status(first)["error"] if code == 1 else err
        assert code in (1, 2) and f"its content is {new}, this run's was {old}" in err
        assert record.state(first) == "failed"
    code, out, _ = sa(*words)  # the first command now gives a run of the new content
    assert code == 0 and folder(out) != first
    saved("my.npz", **rows())
    assert sa("--frozen", str(first))[0] == 0 and record.state(first) == "done"


def test_a_sweep_over_files_has_one_point_for_each_content(sa):
    for seed in (0, 1):
        saved(f"{seed}.npz", **rows(seed=seed))
    saved("0-again.npz", compressed=True, **rows())
    words = ["-m", *WORDS.split(), "dataset.path=0.npz,1.npz,0-again.npz", "sweep.name=files"]
    code, out, err = sa(*words, "figure=[]")
    assert code == 0 and "2 points" in out, err
    saved("1.npz", inputs=np.zeros((3, 2)), targets=np.array([0, 1, -1]))
    code, _, err = sa(*words)
    assert code == 2 and "point 1 (" in err and "targets row 2 is -1" in err


def test_real_targets_become_a_column_and_the_split_does_not_depend_on_the_seed():
    path = saved("x.npz", inputs=np.arange(10.0), targets=np.arange(10.0) * 2)
    data = Arrays(path=path, test=0.3)
    assert (data.shape, data.classes, data.outputs, data.rows) == ((1,), None, 1, 7)
    train, test = data.load(stream(0, "data"))
    assert torch.equal(train.targets, 2 * train.inputs) and test.inputs.shape == (3, 1)
    assert sorted(torch.cat([train.inputs, test.inputs]).flatten().tolist()) == list(range(10))
    assert torch.equal(data.load(stream(1, "data")).test.inputs, test.inputs)


def test_the_split_keeps_the_share_of_every_class():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    train, test = _own.split(y, 160, 0.2)
    assert np.bincount(y[test]).tolist() == [20, 10, 2]
    assert sorted([*train, *test]) == list(range(160))
    train, test = _own.split(np.array([0, 0, 0, 0, 1]), 5, 0.2)
    assert 4 in train and len(test) == 1  # the only row of its class is for training


def test_a_test_split_in_the_file_is_used_as_it_is():
    data = rows() | {f"test_{k}": v for k, v in rows(20, seed=1).items()}
    train, test = Arrays(path=saved("x.npz", **data)).load(stream(0))
    for split, prefix in ((train, ""), (test, "test_")):
        assert np.array_equal(split.inputs.numpy(), data[f"{prefix}inputs"])
        assert np.array_equal(split.targets.numpy(), data[f"{prefix}targets"])


def test_the_hash_depends_on_values_and_not_on_their_memory_layout():
    x = np.arange(6.0).reshape(2, 3)
    one = _own.sha({"a": x, "b": np.array([1])})
    assert one == _own.sha({"b": np.array([1], ">i8"), "a": np.asfortranarray(x).astype(">f8")})
    for other in (x.astype("f4"), x.reshape(3, 2), -x):
        assert _own.sha({"a": other, "b": np.array([1])}) != one
    assert _own.sha({"b": x, "a": np.array([1])}) != one and len(one) == 16


def test_class_numbers_at_or_above_classes_are_refused():
    path = saved("x.npz", **rows())
    assert Arrays(path=path, classes=7).classes == 7
    assert Arrays(path=path, classes=7).load(stream(0)).train.rows == 48
    with pytest.raises(BadData, match=r"targets row \d+ is 2; class numbers of classes=2 are 0 to"):
        Arrays(path=path, classes=2).check()
    saved("x.npz", inputs=np.ones((4, 2)), targets=np.ones(4))
    with pytest.raises(BadData, match="targets are float64 and classes=2; .*astype"):
        Arrays(path=path, classes=2).check()


def spoilt(**arrays):
    return {k: v for k, v in (rows() | arrays).items() if v is not None}


def at(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


X, Y = rows()["inputs"], rows()["targets"]
MORE = {"test_inputs": X[:9], "test_targets": Y[:9]}
BAD = {
    "nan": (spoilt(inputs=at(X, (7, 2), np.nan)), r"inputs row 7 has nan at \(2,\); 1 row in all"),
    "inf": (spoilt(targets=at(X[:, 0], slice(3, 5), np.inf)), "targets row 3 has inf; 2 rows"),
    "test nan": (
        spoilt(**MORE | {"test_inputs": at(X[:9], (8, 0), np.nan)}), "test_inputs row 8 has nan",
    ),
    "label -100": (
        spoilt(targets=at(Y, 4, -100)), "targets row 4 is -100; class numbers begin at 0",
    ),
    "label columns": (spoilt(targets=Y[:, None]), r"shape \(60, 1\).*save targets\[:, 0\]"),
    "one-hot": (spoilt(targets=np.eye(3, dtype=int)[Y]), r"shape \(60, 3\).*one class a row"),
    "lengths": (spoilt(targets=Y[:50]), "inputs has 60 rows, targets has 50"),
    "test lengths": (spoilt(**MORE | {"test_targets": Y[:8]}), "test_inputs has 9 rows"),
    "names": (
        {"x_train": X, "y_train": Y}, "no inputs and no targets; it holds x_train, y_train",
    ),
    "half a test split": (spoilt(test_inputs=X), "there is no test_targets; it holds inputs"),
    "another name": (spoilt(weights=X), "'weights' is not used"),
    "text": (spoilt(targets=np.array(["cat"] * 60)), "targets holds text; expected numbers"),
    "dates": (spoilt(inputs=np.zeros((60, 2), "M8[s]")), "inputs holds datetime64"),
    "complex": (spoilt(inputs=X + 1j), "inputs holds complex numbers"),
    "no rows": (spoilt(inputs=X[:0], targets=Y[:0]), "inputs has no rows"),
    "empty test split": (
        spoilt(test_inputs=X[:0], test_targets=Y[:0]), "test_inputs has no rows",
    ),
    "one row": (spoilt(inputs=X[:1], targets=Y[:1]), "1 row cannot be split"),
    "no columns": (spoilt(inputs=X[:, :0]), r"inputs has shape \(60, 0\)"),
    "a number": (spoilt(targets=np.array(3)), r"targets has shape \(\)"),
    "images to learn": (spoilt(targets=X[:, :, None]), r"targets has shape \(60, 5, 1\)"),
    "unknown label": (
        spoilt(**MORE | {"test_targets": at(Y[:9], 5, 8)}),
        "test_targets row 5 is 8, which no training row has",
    ),
    "row shape": (
        spoilt(**MORE | {"test_inputs": X[:9, :4]}),
        r"inputs have shape \(5,\), of test_inputs \(4,\)",
    ),
    "two kinds": (spoilt(**MORE | {"targets": X[:, 0]}), "targets are float64, test_targets are"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_before_a_run_starts(sa, kind):
    arrays, told = BAD[kind]
    path = saved("bad.npz", **arrays)
    data = Arrays(path=path)
    for use in (data.check, lambda: data.shape, lambda: data.load(stream(0))):
        with pytest.raises(BadData, match=f"^bad.npz: .*{told}"):
            use()
    code, _, err = sa(*WORDS.split(), f"dataset.path={path}")
    assert code == 2 and err.startswith("sa: dataset: ") and "bad.npz: " in err
    assert not Path("runs").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_loaded(sa, tmp_path):
    trap = tmp_path / "trap"
    evil = np.empty(60, object)
    evil[:] = Evil(str(trap))
    saved("objects.npz", inputs=X, targets=evil)
    Path("pickle.npz").write_bytes(pickle.dumps(Evil(str(trap))))
    np.save("array.npy", evil, allow_pickle=True)
    for name, told in (
        ("objects.npz", "targets holds Python objects, which are never loaded"),
        ("pickle.npz", "damaged, or no .npz file without Python objects"),
        ("array.npy", "damaged, or no .npz file without Python objects"),
    ):
        code, _, err = sa(*WORDS.split(), f"dataset.path={name}")
        assert code == 2 and told in err and not trap.exists(), err
    np.load("objects.npz", allow_pickle=True)["targets"]  # unpickling does create the folder
    assert trap.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>", None])
def test_the_error_for_a_damaged_file_shows_how_to_make_one(content, tmp_path):
    path = saved(str(tmp_path / "x.npz"), **rows())
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-500] if content is None else content)
    with pytest.raises(BadData, match=r"np\.savez\('my\.npz', inputs=x"):
        Arrays(path=path).check()


def test_the_error_for_a_missing_file_shows_what_to_type(sa):
    code, _, err = sa(*WORDS.split(), "dataset.path=nope.npz")
    assert code == 2 and "there is no file" in err and "dataset.path=my.npz" in err
    code, _, err = sa(*WORDS.split())
    assert code == 2 and "sa: dataset: type where your data are: dataset.path=my.npz" in err
    with pytest.raises(MissingData):
        Arrays(path="nope.npz").check()


def test_the_error_of_an_image_model_names_a_model_for_rows(sa):
    saved("my.npz", **rows())
    code, _, err = sa("dataset=arrays", "dataset.path=my.npz", "model=cnn")
    assert code == 2 and "model.shape=[5]: too few numbers; model=mlp takes rows of any" in err


def test_the_help_states_what_each_setting_does(sa):
    code, out, _ = sa("dataset=arrays", "--help")
    assert code == 0 and "dataset.test=0.2" in out and "largest class number + 1" in out


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
