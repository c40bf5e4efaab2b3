"""Tests of `dataset=images`: folder names are the classes, and the bytes name the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import folder, result
from PIL import Image

from sa.dataset.images import Images
from sa.params import stream
from sa.types import BadData, MissingData

WORDS = "dataset=images dataset.path=zoo model=mlp model.hidden=[8] estimator=ste steps=20 seed=0"


def painted(root="zoo", classes=("cat", "dog"), n=10, size=(6, 6), mode="RGB", seed=0):
    """Write a folder of noise images for each class, brighter for later classes."""
    draw = np.random.default_rng(seed)
    channels = () if mode == "L" else (3,)
    for i, name in enumerate(classes):
        (Path(root) / name).mkdir(parents=True)
        for j in range(n):
            pixels = draw.integers(100 * i, 100 * i + 100, (*size, *channels), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(root) / name / f"{j}.png")
    return root


def test_a_training_on_a_folder_of_images_is_named_by_the_bytes_of_the_files(sa):
    painted()
    words = [*WORDS.split(), "analysis=[]", "tracker=none"]
    code, out, err = sa(*words)
    assert code == 0 and result(out)["test/accuracy"] == 1.0, err
    first = folder(out)
    shutil.copytree("zoo", "elsewhere")
    Path("elsewhere/cat/.DS_Store").write_text("hidden files are no images")
    assert folder(sa(*words, "dataset.path=elsewhere")[1]) == first
    Path("elsewhere/cat/0.png").rename("elsewhere/cat/a.png")
    assert folder(sa(*words, "dataset.path=elsewhere")[1]) != first


def test_channels_are_standardised_by_the_training_images():
    data = Images(path=painted(n=20))
    assert (data.shape, data.classes, data.rows, data.outputs) == ((3, 6, 6), 2, 32, None)
    train, test = data.load(stream(0))
    x = train.inputs.transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(x.std(1), torch.ones(3, dtype=torch.float64))
    assert test.targets.bincount().tolist() == [4, 4]
    bright = test.inputs.mean((1, 2, 3))
    assert (bright[test.targets == 1] > bright[test.targets == 0].max()).all()


def test_pixels_are_read_from_the_files_up_to_an_affine_map():
    painted(n=3, mode="L", size=(4, 5))
    train, test = Images(path="zoo").load(stream(0))
    x = torch.cat([train.inputs, test.inputs]).squeeze(1)
    raw = [np.asarray(Image.open(f), float) for f in sorted(Path("zoo").rglob("*.png"))]
    kept = train.rows
    used = [r for r in raw if any(np.corrcoef(r.flat, y.flatten())[0, 1] > 1 - 1e-9 for y in x)]
    assert len(used) == 6 and kept == 5 and x.shape == (6, 4, 5)


def test_folders_named_train_and_test_are_the_splits():
    painted("zoo/train", n=4)
    painted("zoo/test", n=3, seed=1)
    data = Images(path="zoo")
    assert data.rows == 8 and data.load(stream(0)).test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    painted("zoo/test", classes=("emu",), n=1)
    with pytest.raises(BadData, match="zoo: test/emu/0.png: no training image is of this class"):
        data.check()


def test_one_colour_image_gives_all_images_three_channels_and_size_resizes_them():
    painted(mode="L", size=(6, 6))
    assert Images(path="zoo").shape == (1, 6, 6)
    Image.new("RGB", (9, 7), "red").save("zoo/cat/red.png")
    with pytest.raises(BadData, match="cat/0.png is 6x6, cat/red.png is 7x9; .*dataset.size=32"):
        Images(path="zoo").check()
    data = Images(path="zoo", size=8)
    assert data.shape == (3, 8, 8) and data.load(stream(0)).train.inputs.isfinite().all()


BAD = {
    "no image": (lambda p: (p / "cat/notes.txt").write_text("x"), "cat/notes.txt is no image"),
    "damaged": (lambda p: (p / "dog/3.png").write_bytes(b"x"), "dog/3.png is damaged"),
    "cut": (
        lambda p: (p / "dog/3.png").write_bytes((p / "dog/3.png").read_bytes()[:60]),
        "dog/3.png is damaged",
    ),
    "16 bits": (
        lambda p: Image.fromarray(np.ones((6, 6), np.uint16)).save(p / "cat/x.png"),
        "cat/x.png has pixels of mode I;16",
    ),
    "no class": (lambda p: (p / "cat/0.png").rename(p / "0.png"), "0.png does not lie in the fold"),
    "empty class": (lambda p: (p / "emu").mkdir(), "the folder emu has no images"),
    "no test": (lambda p: (p / "cat").rename(p / "train"), "a folder train and no folder test"),
    "nothing": (lambda p: [shutil.rmtree(x) for x in p.iterdir()], "the folder zoo has no images"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_error_for_a_bad_folder_names_the_file(sa, kind):
    spoil, told = BAD[kind]
    spoil(Path(painted()))
    with pytest.raises(BadData, match=f"^zoo: .*{told}"):
        Images(path="zoo").check()
    code, _, err = sa(*WORDS.split())
    assert code == 2 and err.startswith("sa: dataset: ") and not Path("runs").exists()


def test_the_error_for_a_missing_folder_shows_what_to_type(sa):
    code, _, err = sa(*WORDS.split())
    assert code == 2 and "there is no folder" in err and "a folder of images for each class" in err
    with pytest.raises(MissingData):
        Images(path="zoo").check()


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
