"""Random crops and flips: their distribution, their streams, and who sees them."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from commands import folder
from conftest import cifar, component, fashion, studied
from dataset.test_datasets import own

from sa.estimator.ste import STE
from sa.objective.augment import Augment, Augmented
from sa.objective.prepare import prepare
from sa.params import stream
from sa.record import identity
from sa.record import run as record
from sa.training import loop, replicas
from sa.types import Batch

PLAIN = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
MANY = 4000
WORDS = ["dataset=digits", "model=mlp", "model.hidden=[8]", "estimator=ste", "analysis=[]",
         "tracker=none", "batch_size=64", "steps=6", "evaluate_every=3"]  # fmt: skip


def copies(height=4, width=5):
    """Return many copies of one raw image without equal pixels, and the image."""
    image = torch.arange(1, 2 * height * width + 1, dtype=torch.float64).view(1, 2, height, width)
    return image.expand(MANY, -1, -1, -1), image


def task(**settings):
    model = component("model", "cnn_relu", shape=[1, 8, 8], channels=[2, 2])
    return studied(model, component("dataset", "digits"), dtype="float32", **settings)


@pytest.mark.parametrize("p", [1, 2])
def test_the_mean_over_all_crops_is_the_box_mean_of_the_image_with_a_black_border(p):
    images, image = copies()
    got, counts = Augment(p)(images, PLAIN, stream(0)).unique(dim=0, return_counts=True)
    side = 2 * p + 1
    assert len(got) == side**2  # every crop is among so many draws
    mean = F.avg_pool2d(F.pad(image, [p] * 4), side, stride=1)
    torch.testing.assert_close(got.mean(0), F.pad(mean, [p] * 4)[0, :, p:-p, p:-p])
    share = 1 / side**2  # offsets are uniform
    assert (counts / MANY - share).abs().max() < 4.5 * (share * (1 - share) / MANY) ** 0.5


def test_half_of_the_images_are_mirrored_and_nothing_else_happens_to_them():
    images, image = copies()
    got = Augment(flip=True)(images, PLAIN, stream(0))
    flipped = (got == image.flip(3)).flatten(1).all(1)
    assert ((got == image).flatten(1).all(1) ^ flipped).all()
    assert abs(float(flipped.double().mean()) - 0.5) < 4 * (0.25 / MANY) ** 0.5


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 4, 5)])
def test_images_are_changed_as_if_they_were_standardised_afterwards(shape):
    images, _ = copies()
    mean, std = torch.randn(shape, generator=stream(1)), 1 + torch.rand(shape, generator=stream(2))
    change = partial(Augment(2, True), generator=stream(3))
    expected = (change(images, PLAIN) - mean) / std
    change = partial(Augment(2, True), generator=stream(3))
    torch.testing.assert_close(change((images - mean) / std, (mean, std)), expected)


def test_the_changes_of_a_step_depend_on_the_seed_and_the_step_alone():
    images, _ = copies()
    rows = Batch(images[:30], torch.arange(30))
    changed = Augmented(lambda step: rows, Augment(2, True), PLAIN, 7)
    expected = Augment(2, True)(rows.inputs, PLAIN, stream(7, "augment", 4))
    for _ in range(2):
        assert torch.equal(changed(4).inputs, expected)
    assert not torch.equal(changed(5).inputs, expected)
    assert torch.equal(changed(4).targets, rows.targets)


@pytest.mark.parametrize(("name", "settings"), [
    ("digits", {}), ("images", {}), ("idx", {}), ("cifar10", {}), ("fashion_mnist", {}),
    ("cifar10", {"normalise": "channel"}), ("fashion_mnist", {"normalise": "pixel", "size": 32}),
    ("fashion_mnist", {"size": 32, "channels": 3}),
])  # fmt: skip
def test_the_scale_of_a_dataset_turns_its_inputs_back_into_raw_pixels(
    name, settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("SA_DATA", str(tmp_path))
    cifar(tmp_path)
    fashion(tmp_path / "fashion-mnist", monkeypatch)
    files = name in ("cifar10", "fashion_mnist")
    own_folder = tmp_path / "own"
    own_folder.mkdir()
    given = {"n": 40, "root": str(tmp_path)} if files else own(name, own_folder)
    data = component("dataset", name, **given, **settings)
    mean, std = data.scale()
    raw = data.load(stream(0)).train.inputs * std + mean
    assert (raw - raw.round()).abs().max() < 1e-9
    assert raw.min() > -1e-9 and raw.max() < 255 + 1e-9
    if settings.get("size") == 32:
        assert raw[..., 0].abs().max() < 1e-12  # the border is black


def test_analyses_and_evaluations_see_the_rows_as_they_are():
    augmented, plain = (
        prepare(task(batch_size=16, augment={"crop": 1}), 5),
        prepare(task(batch_size=16), 5),
    )
    step = augmented.objective(augmented.batch(3), 3)
    assert not torch.equal(step.batch.inputs, plain.batches(3).inputs)
    assert torch.equal(augmented.analysed(step, 3).batch.inputs, plain.batches(3).inputs)
    for one, other in zip(augmented.data, plain.data, strict=True):
        assert torch.equal(one.inputs, other.inputs)
    seen = []

    def look(objective, *_):
        seen.append(objective.batch.inputs)
        return {}

    sgd = partial(torch.optim.SGD, lr=0.1)
    start = loop.start(augmented, None)
    rows = [row for row, _ in loop.loop(augmented, STE(), sgd, {"look": look}, steps=2,
                                        progress=start, analyse_every=1)]  # fmt: skip
    assert len(rows) == len(seen) == 3
    for at, inputs in enumerate(seen):
        assert torch.equal(inputs, plain.batches(at).inputs)
    loss = augmented.objective(augmented.batch(0), 0).value(augmented.params)
    assert rows[0]["loss"] == pytest.approx(float(loss))


def test_each_of_several_networks_sees_the_images_that_it_would_see_alone():
    own = {"batch_size": 16, "augment": {"crop": 2, "flip": True}}
    together = replicas.stack(task(**own), 4, 3).batches(6)
    for at in range(3):
        assert torch.equal(together.inputs[:, at], prepare(task(**own), 4 + at).batches(6).inputs)


def test_a_killed_run_and_one_of_two_processes_see_the_same_images(sa):
    words = [*WORDS, "augment={crop:2,flip:true}"]
    whole = record.read_rows(folder(sa(*words, "root=calm")[1]))
    append = record.Record.append

    def killed(self, row):
        append(self, row)
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.Record, "append", killed)
        assert sa(*words, "checkpoint_seconds=0")[0] == 130
    code, out, _ = sa(*words, "checkpoint_seconds=0")
    assert code == 0 and "going on from step" in out
    assert record.read_rows(folder(out)) == whole
    code, out, err = sa(*words, "processes=2", "root=two")
    assert code == 0, err
    losses = [[row["loss"] for row in rows] for rows in (record.read_rows(folder(out)), whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_run_without_it_has_the_id_that_it_had_before_and_the_record_says_which(sa):
    plain = folder(sa(*WORDS)[1])
    config = yaml.safe_load((plain / "config.yaml").read_text())
    assert config.pop("augment") is None and identity.run_id(config) == plain.name
    assert folder(sa(*WORDS, "augment=none")[1]) == plain
    code, out, err = sa("-m", *WORDS, "augment=none,standard", "sweep.name=both")
    assert code == 0, err
    kept = {p.name: yaml.safe_load((p / "config.yaml").read_text())["augment"]
            for p in Path("runs").iterdir()}  # fmt: skip
    assert len(kept) == 2 and kept[plain.name] is None
    assert set(kept.values()) == {None, "standard"}


@pytest.mark.parametrize(("words", "why"), [
    (["steps=4"], "has shape (8,); set augment=null"),
    (["dataset=digits", "model=mlp"], "a training, and this run does not train"),
    (["dataset=digits", "model=mlp", "steps=2", "augment={crop:8}"], "set crop to less than 8"),
    (["dataset=digits", "model=mlp", "steps=2", "augment={crop:0}"], "change nothing"),
    (["dataset=digits", "model=mlp", "steps=2", "augment=both"], "augment=both: expected standard"),
    (["dataset=digits", "model=mlp", "steps=2", "augment={turn:1}"], "expected standard | none"),
    (
        ["dataset=digits", "model=mlp", "steps=2", "estimator=flow", "quantizer=fp",
         "optimizer.momentum=0"],
        "augment also takes other rows at every step: set it to null",
    ),
])  # fmt: skip
def test_changes_that_do_not_work_are_refused(sa, words, why):
    code, _, err = sa("analysis=[]", "augment=standard", *words)
    assert code == 2 and why in err and not Path("runs").exists(), err


def test_images_whose_black_nobody_knows_are_refused(sa, tmp_path):
    import numpy as np

    np.savez(tmp_path / "my.npz", inputs=np.zeros((9, 1, 8, 8)), targets=np.arange(9) % 3)
    words = ["dataset=arrays", "dataset.path=my.npz", "model=mlp", "analysis=[]", "steps=2"]
    code, _, err = sa(*words, "augment={crop:1}")
    assert code == 2 and "dataset=arrays does not say which number is black" in err
