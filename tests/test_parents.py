"""Runs that start from other runs: parents, interpolations between two, snapshots of a training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import SMALL, folder, result

from sa.config.catalogue import CONF
from sa.record import files, sweep
from sa.record import run as record
from sa.record.snapshots import snapshots


def test_optimizer_schedule_and_average_of_a_parent_are_chosen_by_name(sa):
    words = [
        *SMALL,
        "analysis=[]",
        "steps=2",
        "init=ste_100",
        "init.steps=3",
        "init.optimizer=adam",
    ]
    words += ["+init.schedule=cosine", "+init.average=swa", "init_average=true"]
    code, out, err = sa(*words)
    assert code == 0, err
    config = yaml.safe_load((folder(out) / "config.yaml").read_text())
    for group, name in (("optimizer", "adam"), ("schedule", "cosine"), ("average", "swa")):
        text = (CONF / group / f"{name}.yaml").read_text()
        assert config["init"][group] == yaml.safe_load(text)


def test_settings_fixed_by_two_finished_trainings_cannot_be_typed_with_ends(sa):
    words = ["dataset=digits", "model=mlp", "model.hidden=[4]", "analysis=[]", "tracker=none"]
    runs = [folder(sa(*words, "estimator=ste", "steps=2", f"seed={s}")[1]).name for s in (0, 1)]
    look = [f"ends=[{','.join(runs)}]", "analysis=[interpolation]", "tracker=none"]
    code, out, err = sa(*look)
    assert code == 0, err
    for word in ("dtype=float32", "seed=7", "model=mlp_line", "model.hidden=[5]"):
        code, _, err = sa(*look, word)
        key = word.partition("=")[0].partition(".")[0]
        assert code == 2 and f"{key}: a run that looks at finished trainings" in err
    assert folder(sa(*look, "dtype=float64", "seed=0")[1]) == folder(out)


def test_a_line_between_quantized_networks_starts_and_stops_at_their_exact_losses(sa):
    words = [
        "dataset=digits",
        "model=mlp",
        "model.hidden=[8,8]",
        "quantizer=fixed8",
        "tracker=none",
    ]
    words += ["estimator=ste", "batch_size=64", "optimizer=adam", "optimizer.lr=0.01"]
    ends = "ends=[{seed: 1, steps: 30},{seed: 2, steps: 30}]"
    for again in ("true", "false"):  # without effect, as there is no BatchNorm to re-estimate
        more = ["analysis=[interpolation]", f"analysis.interpolation.recalibrate={again}", ends]
        code, out, err = sa(*words, *more)
        assert code == 0, err
        got = {k.removeprefix("interpolation/"): v for k, v in result(out).items()}
        for a, which in ((0.0, "first"), (1.0, "second")):
            at = got["alpha"].index(a)
            assert got["train/loss"][at] == got[f"{which}/train/loss"]
            assert got["test/accuracy"][at] == got[f"{which}/test/accuracy"]


NET = ["model=cnn2", "model.shape=[1,8,8]", "model.channels=[2,2]", "dataset=digits",
       "estimator=ste", "optimizer=adam", "tracker=none", "batch_size=200"]  # fmt: skip


def test_snapshots_are_the_same_after_a_kill(sa, monkeypatch):

    words = [*NET, "steps=14", "snapshot_every=4", "analysis=[]", "checkpoint_seconds=0"]
    whole = folder(sa(*words, "root=calm")[1])
    sound, calls = record.Record.append, []

    def killed(self, row):
        calls.append(row)
        if len(calls) == 10:
            raise KeyboardInterrupt
        sound(self, row)

    monkeypatch.setattr(record.Record, "append", killed)
    assert sa(*words)[0] == 130
    with pytest.raises(files.RecordError, match="not done"):
        snapshots(next(Path("runs").iterdir()))
    monkeypatch.setattr(record.Record, "append", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step" in out
    ours, theirs = snapshots(folder(out)), snapshots(whole)
    assert list(ours) == list(theirs) == [0, 4, 8, 12, 14]
    for step, path in ours.items():
        with np.load(path) as a, np.load(theirs[step]) as b:
            assert a.files == b.files and all(np.array_equal(a[k], b[k]) for k in a.files)
            assert a["redundant"].tolist() == ["conv1.bias", "conv2.bias"]

    last = torch.load(whole / "checkpoint.pt", weights_only=True)["params"]
    with np.load(theirs[14]) as kept:
        assert all(np.array_equal(kept[f"params/{k}"], v.numpy()) for k, v in last.items())
    without_snapshots = result(sa(*words[:-3], *words[-2:])[1])
    assert without_snapshots["value"] == result(out)["value"]


def test_the_pca_plane_of_a_training_is_drawn_during_it_or_from_its_end_point(sa):
    pca = ["analysis=[surface]", "analysis.surface.axes=pca", "analysis.surface.points=3"]
    code, out, err = sa(*NET, *pca, "steps=14", "snapshot_every=4", "analyse_every=4")
    assert code == 0 and "of the way's variance" in out, err
    own, run = result(out), folder(out)
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    analysed = {r["step"]: len(r["surface/path/a"]) for r in rows if "surface/path/a" in r}
    assert analysed == {8: 3, 12: 4, 14: 5}  # a plane needs three points
    words = [*NET, *pca, "init=ste_500", "init.steps=14", "+init.snapshot_every=4"]
    words += ["init.batch_size=200", "init.optimizer.lr=0.001"]
    code, out, err = sa(*words)
    assert code == 0, err
    got = {k: v for k, v in result(out).items() if k.startswith("surface/")}
    assert len(got) > 8 and got == {k: own[k] for k in got}
    (path,) = (p for p in Path("runs").glob("*/snapshots/000000008.npz") if run not in p.parents)
    path.unlink()
    code, _, err = sa(*words, "analysis.surface.reach=2")
    assert code == 1 and "lacks 1 of its 5 snapshots, of step 8" in err


def test_an_interpolation_between_runs_of_a_sweep_is_a_run_of_its_own(sa):
    code, out, err = sa(
        "-m", *NET, *"steps=9 analysis=[] seed=0,1 sweep.name=two figure=[]".split()
    )
    assert code == 0, err
    about, points = sweep.read_manifest(Path("."), "two")
    names = ",".join(p["run_id"] for p in points)
    probe = ["analysis=interpolation", "analysis.interpolation.points=2", "tracker=none"]
    code, out, err = sa(*probe, "ends=two")
    assert code == 0 and "interpolation" in out, err
    got = result(out)
    assert result(sa(*probe, f"ends=[{names}]")[1]) == got  # the same run
    ends = [record.read_result(".", p["run_id"])["train/loss"] for p in points]
    assert [got["interpolation/first/train/loss"], got["interpolation/second/train/loss"]] == ends
    code, out, err = sa(*probe, "ends=two", "analysis.interpolation.align=true")
    assert code == 0 and "% of the second's units put in another place" in out, err
    near = result(out)
    assert near["interpolation/distance"] <= got["interpolation/distance"]
    assert 0 <= near["interpolation/moved"] <= 1
    both = [x["interpolation/test/loss"] for x in (near, got)]  # losses of the same two functions
    assert [both[0][i] for i in (2, 4)] == pytest.approx([both[1][i] for i in (2, 4)], rel=1e-9)
    code, out, err = sa(*NET, "analysis=[]", "steps=9", "model.channels=[2,3]", "seed=1")
    other = folder(out).name
    code, _, err = sa(*probe, f"ends=[{points[0]['run_id']},{other}]")
    assert code == 2 and "differ in model.channels" in err
    code, _, err = sa(*probe, *NET[:2], f"ends=[{other},{{steps: 3}}]")
    assert code == 2 and f"{other} and this command differ in model." in err
    code, out, err = sa(*probe, f"ends=[{other},{other}]")  # a line of length 0
    assert code == 0 and result(out)["interpolation/distance"] == 0, err
    sa(*NET, "analysis=[]", "seed=5")
    code, _, err = sa(*probe, f"ends=[{other},{folder(sa(*NET, 'analysis=[]')[1]).name}]")
    assert code == 2 and "is a probe" in err


def test_trainings_described_in_ends_are_computed_once(sa):
    words = [*NET, "analysis=interpolation", "analysis.interpolation.points=2"]
    words.append("ends=[{batch_size: 100, steps: 5},{batch_size: 200, steps: 3}]")
    code, out, err = sa("-m", *words, "figure=[]", "analysis.interpolation.recalibrate=true,false")
    assert code == 0, err
    assert len(list(Path("runs").iterdir())) == 4  # two interpolations, two trainings


def test_each_end_of_a_line_may_set_its_estimator_and_start(sa):
    words = ["model=mlp", "model.hidden=[3]", "dataset=digits", "analysis=interpolation"]
    words += ["analysis.interpolation.points=2", "tracker=none"]

    def apart(estimator, start):
        second = f"second:{{estimator:{estimator},steps:2,seed:7,init_seed:{start}}}"
        code, out, err = sa(*words, f"ends={{first:{{estimator:ste_clipped,steps:2}},{second}}}")
        assert code == 0, err
        return result(out)["interpolation/distance"]

    assert apart("ste_clipped", 0) == 0  # with full batches only the start is random
    assert apart("ste_clipped", "null") > 0.1 and apart("spsa", 0) > 0
    kinds = [yaml.safe_load(p.read_text()) for p in Path("runs").glob("*/config.yaml")]
    trained = {k["estimator"]["_target_"].rsplit(".", 1)[1] for k in kinds if k["steps"]}
    assert trained == {"STE", "SPSA"}


def test_a_run_may_start_from_the_averaged_weights_of_its_parent(sa):
    words = [*SMALL, "init=ste_500", "init.steps=20", "init.batch_size=64", "schedule=cosine"]
    words += ["+init.average={_target_:sa.training.average.Average,decay:0.9}"]
    values = {x: result(sa(*words, f"init_average={x}")[1])["value"] for x in ("true", "false")}
    assert values["true"] != values["false"] and len(list(Path("runs").iterdir())) == 3


def test_a_parent_is_computed_once_and_shared(sa):
    words = [*SMALL, "init=ste_500", "init.steps=20", "init.batch_size=64"]
    code, out, err = sa(*words)
    assert code == 0 and "parent" in out, err
    assert len(list(Path("runs").iterdir())) == 2
    trained, plain = result(out), result(sa(*SMALL)[1])
    assert trained["value"] < plain["value"]  # it starts where the parent ended
    code, out, _ = sa(*words, "estimator=cdg")
    assert code == 0 and "parent" not in out
    assert len(list(Path("runs").iterdir())) == 4  # parent, two children, the plain one
    assert result(out)["value"] == trained["value"]
