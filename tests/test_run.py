"""The command line end to end: what it computes, what it refuses, and what survives a kill."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import cifar, component, killed
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.config.argv import settings_first
from sa.config.build import build
from sa.config.catalogue import CONF, options
from sa.config.error import NoData
from sa.config.study import sizes
from sa.figure.lines import asked
from sa.job import execute
from sa.record import files, identity, provenance, sweep
from sa.record import run as record
from sa.tracking import wandb

ROOT = Path(__file__).parents[1]
SMALL = ["dim=4", "dataset.n=128", "tracker=none", "figure=[]"]


@pytest.fixture
def sa(monkeypatch, capfd, tmp_path):
    """Type a command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_ROOT", raising=False)
    monkeypatch.setattr(wandb, "_BROKEN", [])

    def typed(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sa", *words])
        code = 0
        try:
            run.main()
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err

    return typed


def folder(out, word="run"):
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"{word}: ")
    return Path(last.removeprefix(f"{word}: "))


def result(out):
    return json.loads((folder(out) / "result.json").read_text())


def python(*words, **kwargs):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **kwargs
    )


# What it computes


FLOAT = [
    "dataset=digits", "model=fc_tanh", "model.shape=[1,8,8]", "model.hidden=[8]", "quantizer=fp",
    "criterion=mse", "tracker=none", "optimizer.lr=0.3",
]  # fmt: skip


def test_a_spectral_training_with_its_blocks_and_curvature(sa):
    words = [
        "estimator=spectral",
        "steps=12",
        "estimator.refresh=5",
        "+estimator@estimator.base=ste",
    ]
    code, out, err = sa(*FLOAT, *words, "analysis=[blocks,curvature]")
    assert code == 0, err
    got = result(out)
    assert got["blocks/fc1/shapes"] == "8x64, 8" and got["target"] == "none"
    assert got["headroom"] > got["gamma"] > 1 and got["curvature/edge"] == pytest.approx(2 / 0.3)
    assert "of that" in out and "blocks hold" in out and "lambda_1" in out
    rows = [json.loads(x) for x in (folder(out) / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["refreshed"]] == [0, 5, 10]


@pytest.mark.parametrize(
    "words, why",
    [
        (["estimator.n_filter=10", "estimator.blocks=tensor"], "block 'fc1.bias' has 8 parameters"),
        (["estimator.scale=0"], "estimator.scale=0: input should be greater than 0"),
        (["estimator.refresh=50"], "refresh=50: the training has 12 steps; expected refresh <="),
        (["optimizer=adam"], "spectral scales the step itself, which Adam would change"),
        (["optimizer.momentum=0.9"], "set optimizer=sgd optimizer.momentum=0 (and estimator.mom"),
        (["model=mlp", "quantizer=fwba"], "no loss' Hessian; take estimator=spectral_ste"),
        (["batch_size=100"], "set safeguard=null, or batch_size=null"),
        (["+estimator@estimator.base=spectral"], "base: Spectral makes the step itself"),
        (["estimator.blocks=layer"], "blocks=layer: input should be 'network', 'module' or 'tenso"),
        (["estimator.blocks={x:'*'}"], "estimator.blocks.x=*: input should be a list, [A,B]\n"),
        (["analysis=[blocks]", "analysis.blocks.blocks={x:[conv*]}"], "analysis.blocks: blocks.x:"),
    ],
)
def test_what_spectral_refuses_before_any_work(sa, words, why):
    code, out, err = sa(*FLOAT, "estimator=spectral", "steps=12", "estimator.refresh=5", *words)
    assert code and why in err and "Traceback" not in err


def test_a_quantizer_that_the_network_has_no_place_for_is_told(sa):
    why = "FC is in full precision and ignores the quantizer; models of quantized layers: toy_mlp"
    code, _, err = sa(*FLOAT, "analysis=[]", "quantizer=bwba")
    assert code == 0 and err.count(f"note: {why}") == 1
    assert why not in sa(*FLOAT, "analysis=[]", "quantizer=fp")[2]
    plan = ["-m", *FLOAT, "analysis=[]", "sweep.dry_run=true"]
    code, _, err = sa(*plan, "quantizer=fp,bwba,fwba")
    assert code == 0 and err.count("note: ") == 1 and f"note: 2 of 3 points: {why}" in err
    assert f"note: 2 of 2 points: {why}" in sa(*plan, "quantizer=bwba", "seed=0,1")[2]
    assert f"note: {why}" in sa(*plan[1:], "quantizer=bwba")[2]


def test_a_parent_takes_optimizer_schedule_and_average_by_their_names(sa):
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


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("dim=4 --cfg job seed=1", "dim=4 seed=1 --cfg job"),
        ("-m dim=4 --config-dir a=b hydra=x", "dim=4 hydra=x -m --config-dir a=b"),
        ("--info dim=4 -cn config seed=1", "dim=4 seed=1 --info -cn config"),
        ("--config-dir=c ~schedule seed=1", "~schedule seed=1 --config-dir=c"),
    ],
)  # fmt: skip
def test_options_stand_anywhere(typed, ordered):
    assert settings_first(typed.split()) == ordered.split()


def test_a_resumed_run_mirrors_the_rows_that_a_kill_may_have_taken(sa, monkeypatch):
    """W&B writes in blocks: of a run killed at step 6 its file may hold no row at all."""
    words = [*SMALL, "analysis=[]", "steps=9", "checkpoint_seconds=0"]
    mirrored, append = [], record.Record.append

    def killed_at_6(self, row):
        append(self, row)
        if row["step"] == 6:
            raise KeyboardInterrupt

    class Mirror:
        log, finish, abort = mirrored.append, lambda *_: None, lambda *_: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.Record, "append", killed_at_6)
        assert sa(*words)[0] == 130
    monkeypatch.setattr(execute, "_mirror", lambda *_: Mirror)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step 5 of 9" in out
    assert mirrored == record.read_rows(folder(out))


def test_a_setting_behind_an_option_is_heard(sa):
    code, out, _ = sa("dim=3", "--cfg", "job", "dataset.n=77")
    assert code == 0 and "dim: 3\n" in out and "'n': 77\n" in out


def test_what_two_finished_trainings_decide_cannot_be_typed_beside_them(sa):
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


def test_ends_of_networks_with_ranges_are_the_very_points_of_the_line(sa):
    words = [
        "dataset=digits",
        "model=mlp",
        "model.hidden=[8,8]",
        "quantizer=fixed8",
        "tracker=none",
    ]
    words += ["estimator=ste", "batch_size=64", "optimizer=adam", "optimizer.lr=0.01"]
    ends = "ends=[{seed: 1, steps: 30},{seed: 2, steps: 30}]"
    for again in ("true", "false"):  # there is no BatchNorm to re-estimate
        more = ["analysis=[interpolation]", f"analysis.interpolation.recalibrate={again}", ends]
        code, out, err = sa(*words, *more)
        assert code == 0, err
        got = {k.removeprefix("interpolation/"): v for k, v in result(out).items()}
        for a, which in ((0.0, "first"), (1.0, "second")):
            at = got["alpha"].index(a)
            assert got["train/loss"][at] == got[f"{which}/train/loss"]
            assert got["test/accuracy"][at] == got[f"{which}/test/accuracy"]


def test_what_is_measured_of_the_rate_is_of_the_steps_own(sa):
    words = [*FLOAT, "steps=4", "schedule=cosine", "analysis=[gradient_norm]", "analyse_every=1"]
    code, out, err = sa(*words)
    assert code == 0, err
    rows = record.read_rows(folder(out))[:4]
    assert len({r["lr"] for r in rows}) == 4
    for row in rows:
        assert row["gradient_norm/edge"] == pytest.approx(2 / row["lr"])


def test_probabilities_are_read_of_classes_under_mse_too(sa):
    code, out, err = sa(*FLOAT, "analysis=[input_sensitivity]")
    assert code == 0 and "input_sensitivity/test/probabilities/mean" in result(out), err


def test_replicas_keep_what_is_redundant_as_one_alone_does(sa):
    words = ["dataset=digits", "model=cnn2", "model.shape=[1,8,8]", "model.channels=[2,2]"]
    words += ["steps=2", "snapshot_every=1", "batch_size=32", "analysis=[]", "tracker=none"]
    kept = []
    for more in (["replicas=2"], []):
        code, out, err = sa(*words, "estimator=ste", *more)
        assert code == 0, err
        snapshot = min(folder(out).glob("snapshots/*.npz"))
        with np.load(snapshot) as file:
            kept.append(file["redundant"].tolist())
    assert kept[0] == kept[1] == ["conv1.bias", "conv2.bias"]


def test_launcher_settings_are_suggested_as_they_are_typed(sa):
    words = ["-m", *SMALL, "seed=0,1", "hydra/launcher=slurm", "sweep.dry_run=true"]
    err = sa(*words, "hydra.launcher.tme=3")[2]
    assert "did you mean hydra.launcher.time?" in err
    err = sa(*words, "hydra.launcher.extra={nodelist: n1}")[2]
    assert "no such setting" not in err


def test_options_that_are_none_are_told(sa):
    code, _, err = sa("--hlep")
    assert code == 2 and "--hlep: there is no such option; did you mean --help?" in err
    code, _, err = sa("--frozen")
    assert code == 2 and "expected the folders of frozen runs" in err


def test_replicas_say_what_is_quantized_and_a_base_is_a_word(sa):
    words = ["dataset=digits", "model=mlp", "model.hidden=[8]", "analysis=[]", "tracker=none"]
    words += ["steps=6", "batch_size=64", "evaluate_every=null"]
    alone, many = (sa(*words, *more)[1] for more in (["estimator=ste"], ["replicas=2"]))
    assert result(many)["quantized"] == result(alone)["quantized"] == "act1.activation: Sign()"
    code, out, err = sa(
        *words[:-2], "estimator=spectral_ste", "estimator.refresh=5", "batch_size=null"
    )
    assert code == 0 and "base=ste " in out and "_target_" not in out, err


@pytest.mark.parametrize("words", [["quantizer=[]"], ["~quantizer"], ["~root"]])
def test_what_cannot_be_taken_away_is_told(sa, words):
    code, _, err = sa(*SMALL, *words)
    assert code == 2 and "Error executing" not in err and "Traceback" not in err
    assert words[0].strip("~=[]") + (": cannot" if "quantizer" in words[0] else "=null") in err


def test_a_folder_named_by_a_number(sa):
    code, out, err = sa(*SMALL, "analysis=[]", "root=2")
    assert code == 0 and folder(out).parts[0] == "2", err


def test_a_scale_beyond_the_gap_is_told_with_the_headroom_and_a_rate_may_fall_to_0(sa):
    words = [*FLOAT, "estimator=spectral", "steps=6", "estimator.refresh=5", "schedule=cosine"]
    code, out, err = sa(*words, "analysis=[]", "estimator.scale=1e6")
    assert code == 0, err
    assert re.search(
        r"note: estimator: no gap for scale 1e\+06: the headroom is [\d.]+; a larger", err
    )


def test_the_hessian_of_a_quantized_network_is_refused_with_the_alternatives(sa):
    code, out, err = sa(*SMALL, "analysis=[curvature]")
    assert code and "analysis.curvature: 'fc1" in err.replace("act1", "fc1")
    assert all(x in err for x in ("smoothing", "spectral_ste", "quantizer=fp"))


def test_a_probe_has_the_promised_keys_and_summary(sa):
    code, out, err = sa(*SMALL, "estimator=nes", "estimator.sigma=0.01", "estimator.samples=20")
    assert code == 0, err
    got = result(out)
    promised = (
        "value grad_norm evals seconds alignment/cosine alignment/scale descent/best "
        "descent/best_heldout descent/best_lr"
    ).split()
    for key in promised:
        assert isinstance(got[key], float | int), key
    assert got["evals"] == 41 and got["parameters"] == 52 and got["target"] == "gaussian"
    assert got["cosine_expected"] == pytest.approx((20 / (20 + 52 + 1)) ** 0.5)
    for word in ("value", "gradient norm", "cosine to CDG", "best decrease", "held out", "evals"):
        assert word in out
    assert f"{got['cosine_expected']:.3f}" in out
    kept = yaml.safe_load((folder(out) / "config.yaml").read_text())
    assert kept["estimator"]["sigma"] == 0.01 and "${" not in json.dumps(kept)
    assert all(not isinstance(v, dict) for v in got.values())


def test_what_bits_cost_is_told(sa):
    digits = ["dataset=digits", "model=mlp", "model.hidden=[8,6]", "tracker=none"]
    code, out, err = sa(*digits, "quantizer=w2a2", "analysis=[cost,quant_error]")
    assert code == 0, err
    got = result(out)
    assert got["cost/bops"] == 64 * 8 * 32 * 32 + 8 * 6 * 2 * 2 + 6 * 10 * 32 * 2
    assert got["quant_error/fc2.weight/levels"] == 4 and "worst SQNR" in out
    code, out, err = sa(*digits, "quantizer=fwba", "analysis=sensitivity_bits")
    assert code == 0, err
    got = result(out)
    assert got["sensitivity_bits/ilp/spent"] <= 4 and "  ilp" in out and "Kendall tau" in out


def test_cdg_agrees_with_itself(sa):
    got = result(sa(*SMALL, "estimator=cdg")[1])
    assert got["alignment/cosine"] == pytest.approx(1.0, abs=1e-12)
    assert got["alignment/scale"] == pytest.approx(1.0, abs=1e-12)
    assert got["descent/ratio"] == pytest.approx(1.0) and got["path"] == "fast"


@pytest.mark.parametrize("estimator", options("estimator"))
def test_every_estimator_runs(sa, estimator):
    words = ["estimator.samples=8"] if estimator.startswith("nes") else []
    if component("estimator", estimator).target == "stochastic":
        words = ["quantizer=sr_act"] if estimator.startswith("sr") else ["quantizer=sba"]
    if estimator in ("flow", "spectral"):  # of a loss that has a curvature
        words = ["quantizer=fp", "analysis=[]"]
    code, out, err = sa(*SMALL, f"estimator={estimator}", *words)
    assert code == 0, err
    got = result(out)
    assert got["target"] == component("estimator", estimator).target
    assert np.isfinite([got["value"], got["grad_norm"], got["evals"]]).all()


STOCHASTIC = [x for x in options("estimator") if component("estimator", x).target == "stochastic"]


@pytest.mark.parametrize("estimator", STOCHASTIC)
def test_an_estimator_of_random_units_is_refused_where_there_are_none(sa, estimator):
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
def test_every_experiment_composes_and_validates(sa, experiment):
    for first in ([], ["-m"]):
        code, out, err = sa(*first, f"experiment={experiment}", "sweep.dry_run=true")
        assert code == 0, err
        assert not Path("runs").exists() and not Path("sweeps").exists()


@pytest.mark.parametrize("experiment", [x for x in options("experiment") if "full" in sizes(x)])
def test_every_full_size_composes_and_validates(sa, experiment, tmp_path, monkeypatch):
    cifar(tmp_path / "there", rows=2)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there"))
    code, out, err = sa("-m", f"experiment={experiment}", "size=full", "sweep.dry_run=true")
    assert code == 0 and "-full: " in out, err
    assert "cifar" not in err and not Path("runs").exists() and not Path("sweeps").exists()


LEAST = {  # studies of low-bit training, of cosines, and questions, as small as they can be
    "cosine_precision": "dim=3 dataset.n=64 seed=0",
    "stochastic_rounding_pretrained": "dim=3 dataset.n=300 seed=0 init.steps=3 init.batch_size=64",
    "digits_bits": "epochs=1 batch_size=700 quantizer.weight.bits=1,32 seed=0",
    "digits_xnor": "epochs=1 batch_size=479 model.init_channels=1 seed=0",
    "fixed_point": "epochs=1 batch_size=700 quantizer.weight.range=max seed=0",
    "lr_batch_bits": "epochs=1 batch_size=700 stored.bits=6 optimizer.lr=0.01 seed=0",
    "ema_underflow": "dim=8 steps=4 stored.bits=8 seed=0",
    "estimator_basins": "model.hidden=[2] ends.first.steps=1 ends.second.steps=1 seed=0 "
    "analysis.interpolation.points=2",
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
        name = kind if isinstance(kind, str) else asked(kind).file
        assert list(study.glob(f"figures/**/{name}.png")), kind
    judged = json.loads((study / "expectations.json").read_text())
    assert [j["id"] for j in judged] == [e["id"] for e in node["expectations"]]
    assert any(j["observed"] is not None for j in judged)


def test_the_full_size_yields_to_what_is_typed(sa):
    words = ["-m", "experiment=descent_dims", "size=full", "dim=4", "sweep.dry_run=true"]
    code, out, err = sa(*words)
    assert code == 0 and "20 points" in out and "dim=4" not in out, err
    assert "seed=4" in out


def test_repeating_a_run_computes_nothing(sa):
    first = folder(sa(*SMALL)[1])
    stamp = (first / "result.json").stat().st_mtime_ns
    # the same numbers written otherwise, and bookkeeping, are the same run
    code, out, _ = sa(*SMALL, "threads=2", "estimator.scale=null", "progress=false")
    assert code == 0 and folder(out) == first
    assert (first / "result.json").stat().st_mtime_ns == stamp
    assert folder(sa(*SMALL, "seed=1")[1]) != first


def test_epochs_are_steps_and_a_goal_may_come_sooner(sa):
    words = ["experiment=digits_ste", "tracker=none", "figure=[]", "evaluate_every=10"]
    code, out, err = sa(*words, "steps=0", "epochs=2")
    assert code == 0, err
    assert result(out)["step"] == 2 * (1437 // 64) == 44 and result(out)["stopped"] == "steps"
    assert folder(sa(*words, "steps=44")[1]) == folder(out)  # the same run
    code, out, err = sa(*words, "until={test/accuracy:0.3}", "average=swa", "average.start=0")
    assert code == 0 and "stopped" in out and "swa/test" in out, err
    got = result(out)
    assert got["stopped"] == "test/accuracy >= 0.3" and got["step"] in (10, 20, 30)


def test_replicas_are_the_runs_of_their_seeds(sa):
    words = [*SMALL, "analysis=[]", "steps=20", "batch_size=16"]
    code, out, err = sa(*words, "replicas=3", "seed=4")
    assert code == 0, err
    got = result(out)
    alone = [result(sa(*words, f"seed={s}")[1]) for s in (4, 5, 6)]
    assert got["test/loss/each"] == pytest.approx([r["test/loss"] for r in alone], rel=1e-9)
    assert got["parameters"] == 3 * alone[0]["parameters"]


def test_settings_younger_than_a_run_leave_its_id(sa):
    kept = folder(sa(*SMALL)[1])
    config = yaml.safe_load((kept / "config.yaml").read_text())
    younger = identity.LATER | set(identity.DEFAULTS)
    assert set(config) >= younger
    old = {k: v for k, v in config.items() if k not in younger}
    assert identity.run_id(old) == kept.name != identity.run_id(old | {"clip": 1.0})
    build(old)  # what was frozen before can still be run


NET = ["model=cnn2", "model.shape=[1,8,8]", "model.channels=[2,2]", "dataset=digits",
       "estimator=ste", "optimizer=adam", "tracker=none", "batch_size=200"]  # fmt: skip


def test_kept_points_are_the_same_after_a_kill(sa, monkeypatch):
    import numpy as np

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
        record.snapshots(next(Path("runs").iterdir()))
    monkeypatch.setattr(record.Record, "append", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step" in out
    ours, theirs = record.snapshots(folder(out)), record.snapshots(whole)
    assert list(ours) == list(theirs) == [0, 4, 8, 12, 14]
    for step, path in ours.items():
        with np.load(path) as a, np.load(theirs[step]) as b:
            assert a.files == b.files and all(np.array_equal(a[k], b[k]) for k in a.files)
            assert a["redundant"].tolist() == ["conv1.bias", "conv2.bias"]
    import torch

    last = torch.load(whole / "checkpoint.pt", weights_only=True)["params"]
    with np.load(theirs[14]) as kept:
        assert all(np.array_equal(kept[f"params/{k}"], v.numpy()) for k, v in last.items())
    assert result(sa(*words[:-3], *words[-2:])[1])["value"] == result(out)["value"]  # none kept


def test_the_plane_of_a_training_is_drawn_by_itself_or_from_its_end(sa):
    pca = ["analysis=[surface]", "analysis.surface.axes=pca", "analysis.surface.points=3"]
    code, out, err = sa(*NET, *pca, "steps=14", "snapshot_every=4", "analyse_every=4")
    assert code == 0 and "of the way's variance" in out, err
    own, run = result(out), folder(out)
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    analysed = {r["step"]: len(r["surface/path/a"]) for r in rows if "surface/path/a" in r}
    assert analysed == {8: 3, 12: 4, 14: 5}  # three points make a plane
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


def test_a_line_between_runs_of_a_sweep_is_a_run_of_its_own(sa):
    code, out, err = sa("-m", *NET, "steps=9", "analysis=[]", "seed=0,1", "sweep.name=two")
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
    both = [x["interpolation/test/loss"] for x in (near, got)]  # of the same two functions
    assert [both[0][i] for i in (2, 4)] == pytest.approx([both[1][i] for i in (2, 4)], rel=1e-9)
    code, out, err = sa(*NET, "analysis=[]", "steps=9", "model.channels=[2,3]", "seed=1")
    other = folder(out).name
    code, _, err = sa(*probe, f"ends=[{points[0]['run_id']},{other}]")
    assert code == 2 and "differ in model.channels" in err
    code, _, err = sa(*probe, *NET[:2], f"ends=[{other},{{steps: 3}}]")
    assert code == 2 and f"{other} and this command differ in model." in err
    code, out, err = sa(*probe, f"ends=[{other},{other}]")  # a line of no length
    assert code == 0 and result(out)["interpolation/distance"] == 0, err
    sa(*NET, "analysis=[]", "seed=5")
    code, _, err = sa(*probe, f"ends=[{other},{folder(sa(*NET, 'analysis=[]')[1]).name}]")
    assert code == 2 and "is a probe" in err


def test_trainings_that_a_line_describes_are_computed_once(sa):
    words = [*NET, "analysis=interpolation", "analysis.interpolation.points=2"]
    words.append("ends=[{batch_size: 100, steps: 5},{batch_size: 200, steps: 3}]")
    code, out, err = sa("-m", *words, "analysis.interpolation.recalibrate=true,false")
    assert code == 0, err
    assert out.count("comes first") == 0 or len(list(Path("runs").iterdir())) == 4
    assert len(list(Path("runs").iterdir())) == 4  # two lines, two trainings


def test_the_ends_of_a_line_choose_their_estimator_and_their_start(sa):
    words = ["model=mlp", "model.hidden=[3]", "dataset=digits", "analysis=interpolation"]
    words += ["analysis.interpolation.points=2", "tracker=none"]

    def apart(estimator, start):
        second = f"second:{{estimator:{estimator},steps:2,seed:7,init_seed:{start}}}"
        code, out, err = sa(*words, f"ends={{first:{{estimator:ste_clipped,steps:2}},{second}}}")
        assert code == 0, err
        return result(out)["interpolation/distance"]

    assert apart("ste_clipped", 0) == 0  # full batches: the start is all they draw
    assert apart("ste_clipped", "null") > 0.1 and apart("spsa", 0) > 0
    kinds = [yaml.safe_load(p.read_text()) for p in Path("runs").glob("*/config.yaml")]
    trained = {k["estimator"]["_target_"].rsplit(".", 1)[1] for k in kinds if k["steps"]}
    assert trained == {"STE", "SPSA"}


def test_an_averaged_parent(sa):
    words = [*SMALL, "init=ste_500", "init.steps=20", "init.batch_size=64", "schedule=cosine"]
    words += ["+init.average={_target_:sa.training.average.Average,decay:0.9}"]
    values = {x: result(sa(*words, f"init_average={x}")[1])["value"] for x in ("true", "false")}
    assert values["true"] != values["false"] and len(list(Path("runs").iterdir())) == 3


def test_root_from_the_environment_and_the_command_line(sa, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_ROOT", str(tmp_path / "there"))
    assert folder(sa(*SMALL)[1]).parent == tmp_path / "there" / "runs"
    assert folder(sa(*SMALL, "root=here")[1]) == Path("here/runs") / folder(sa(*SMALL)[1]).name


def test_an_analysis_does_not_change_the_run(sa):
    with_it = result(sa(*SMALL, "estimator=nes", "estimator.samples=5")[1])
    without = result(sa(*SMALL, "estimator=nes", "estimator.samples=5", "analysis=[]")[1])
    assert with_it["grad_norm"] == without["grad_norm"]


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


# Sweeps


def test_a_sweep_runs_what_is_missing_and_reports(sa):
    words = ["-m", *SMALL, "estimator=cdg,ste,random", "seed=0,1", "sweep.name=mine"]
    words.append("figure=null")  # the default: what the runs measured is drawn
    sa(*SMALL, "estimator=cdg")  # a point that is there already
    code, out, err = sa(*words)
    assert code == 0, err
    assert "6 points, 5 of 6 to do" in out and folder(out, "sweep") == Path("sweeps/mine")
    about, points = sweep.read_manifest(".", "mine")
    assert [p["index"] for p in points] == list(range(6))
    assert points[0]["overrides"] == ["estimator=cdg", "seed=0"]
    assert all(record.read_result(".", p["run_id"]) for p in points)
    assert (Path("sweeps/mine") / "report.html").exists()
    for kind in ("lr_decrease", "best_decrease", "alignment"):
        assert {p.suffix for p in Path("sweeps/mine/figures").glob(f"{kind}.*")} == {
            ".png", ".svg", ".pdf", ".csv",
        }  # fmt: skip
    import pandas as pd

    table = pd.read_parquet("sweeps/mine/results.parquet")
    assert len(table) == 6 and set(table["status"]) == {"done"}
    assert {"dim", "seed", "estimator._target_", "alignment/cosine", "run_id", "commit"} <= set(
        table
    )
    for _, row in table.iterrows():
        assert row["value"] == record.read_result(".", row["run_id"])["value"]
    code, out, _ = sa(*words)
    assert code == 0 and "0 of 6 to do" in out


def test_a_sweep_of_trainings_draws_its_curves(sa):
    words = ["-m", "experiment=digits_ste", "steps=12", "seed=0,1", "evaluate_every=4"]
    code, out, err = sa(*words, "tracker=none", "sweep.name=both")
    assert code == 0 and "note: figure" not in out, (out, err)
    assert len(list(Path("sweeps/both/figures").glob("*/curves.png"))) == 2
    assert Path("sweeps/both/report.html").read_text().count("data:image/png") == 2


def test_points_that_differ_in_bookkeeping_only_are_one(sa):
    code, out, err = sa("-m", *SMALL, "analysis=[]", "memory=1000000,2000000")
    assert code == 0 and "1 point, 1 of 1 to do" in out, err


def test_compose_once_equals_composing_each(sa):
    words = ["estimator=nes,cdg", "dim=4,6", "dataset.n=64,128"]
    sa("-m", "tracker=none", "analysis=[]", *words, "sweep.name=fast")
    _, points = sweep.read_manifest(".", "fast")
    assert len(points) == 8
    for point in points:
        out = sa("tracker=none", "analysis=[]", *point["overrides"])[1]
        assert folder(out).name == point["run_id"]


def test_a_failing_point_leaves_the_others(sa):
    # a rate so large that weights overflow is an outcome, not a failure; a missing parent is one
    words = ["-m", *SMALL, "analysis=[]", "estimator=ste", "steps=30", "sweep.name=rough",
             "evaluate_every=1"]  # fmt: skip
    code, out, err = sa(*words, "optimizer.lr=0.1,1e300")
    assert code == 0, err
    _, points = sweep.read_manifest(".", "rough")
    assert [record.state(Path("runs") / p["run_id"]) for p in points] == ["done", "diverged"]
    fine, rough = (record.read_result(".", p["run_id"]) for p in points)
    assert "test/loss" in fine and "test/loss" not in rough  # that of the start is no outcome


def test_an_error_in_one_point_is_told_and_the_rest_is_kept(sa, monkeypatch):
    from sa.estimator.ste import STE

    sound = STE.__call__

    def broken(self, *args):
        if self.surrogate == "poly":
            raise ArithmeticError("made to fail")
        return sound(self, *args)

    monkeypatch.setattr(STE, "__call__", broken)
    words = ["-m", *SMALL, "analysis=[]", "estimator=ste,ste_poly,ste_tanh", "sweep.name=part"]
    code, out, err = sa(*words)
    assert code == 1 and "made to fail" in out and "1 of 3 points failed" in err
    assert "sa.sweep status part" in err
    _, points = sweep.read_manifest(".", "part")
    states = [record.state(Path("runs") / p["run_id"]) for p in points]
    assert states == ["done", "failed", "done"]
    monkeypatch.setattr(STE, "__call__", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "1 of 3 to do" in out


def test_a_dry_run_writes_nothing(sa):
    code, out, _ = sa("-m", *SMALL, "seed=0,1", "sweep.dry_run=true")
    assert code == 0 and out.count("pending") == 2 and not list(Path(".").iterdir())


@pytest.mark.parametrize(("words", "told"), [
    (["dim=4,8"], True), (["seed=0,1"], False), (["replicas=2", "dim=4,8"], False),
])  # fmt: skip
def test_a_band_of_one_seed_is_told_before_any_run(sa, words, told):
    given = [w for w in SMALL if not (w.startswith("analysis") and "replicas=2" in words)]
    code, _, err = sa("-m", *given, *words, "figure=[bands]", "sweep.dry_run=true")
    assert ("every point is of one seed" in err) == told


def test_frozen_configurations_run_in_a_worker(sa):
    sa(*SMALL)
    kept = next(Path("runs").iterdir())
    value = json.loads((kept / "result.json").read_text())["value"]
    for name in ("result.json", "status.json", "metrics.jsonl"):
        (kept / name).unlink()
    code, out, err = sa("--frozen", str(kept))
    assert code == 0, err
    assert json.loads((kept / "result.json").read_text())["value"] == value
    code, _, err = sa("--frozen", "nowhere")
    assert code == 2 and "nowhere" in err


def test_a_setting_of_every_swept_option_needs_not_be_one_of_the_default(sa):
    """The default estimator has no samples; every swept one has."""
    code, out, err = sa("-m", *SMALL, "estimator=nes,nes_vanilla", "estimator.samples=20")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines() if "/2  " in line] == [
        "estimator=nes",
        "estimator=nes_vanilla",
    ]
    kept = json.loads((next(Path("runs").iterdir()) / "meta.json").read_text())
    assert kept["argv"] == ["-m", *SMALL, "estimator=nes,nes_vanilla", "estimator.samples=20"]
    code, out, err = sa("-m", *SMALL, "estimator=glob(nes*)", "sweep.dry_run=true")
    members = sum(name.startswith("nes") for name in options("estimator"))
    assert code == 0 and f"{members} points" in out, err


def test_a_sweep_loses_no_point_unless_told_to(sa):
    sa("-m", *SMALL, "sweep.name=one", "seed=0,1")
    before = Path("sweeps/one/manifest.jsonl").read_text()
    code, _, err = sa("-m", *SMALL, "sweep.name=one", "seed=1,2")
    assert code == 2 and "1 points" in err and "sweep.replace=true" in err
    assert Path("sweeps/one/manifest.jsonl").read_text() == before
    assert sa("-m", *SMALL, "sweep.name=one", "seed=0,1,2")[0] == 0  # more points are welcome
    assert sa("-m", *SMALL, "sweep.name=one", "seed=1,2", "sweep.replace=true")[0] == 0


def test_a_single_run_says_what_may_have_been_meant_otherwise(sa):
    _, _, err = sa("experiment=descent_dims", "dataset.n=128", "tracker=none")
    assert "sweeps dim, estimator, seed" in err and "-m experiment=descent_dims" in err
    _, _, err = sa(*SMALL, "figure=[curves]", "objective=nonsense")
    assert "not of a single probe" in err and "objective=nonsense" in err


def test_a_reader_that_leaves_early_stops_nothing(tmp_path):
    words = "experiment=digits_ste steps=200 evaluate_every=20 tracker=none figure=[]"
    command = f"{sys.executable} -m sa.run {words} root={tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("step 0") and not done.stderr, done.stderr
    (kept,) = (tmp_path / "runs").iterdir()
    assert json.loads((kept / "status.json").read_text())["state"] == "done"


def test_zipped_listed_and_excluded_points(sa):
    words = ["-m", *SMALL, "sweep.dry_run=true"]
    _, out, _ = sa(*words, "seed=0,1", "dim=4,5", "sweep.zip=[seed,dim]")
    assert [x.split("pending ")[1].split() for x in out.splitlines()[1:]] == [
        ["seed=0", "dim=4"],
        ["seed=1", "dim=5"],
    ]
    _, out, _ = sa(*words, "seed=0,1", "++steps=0,1", "sweep.zip=[steps,seed]")
    assert "2 points" in out and "++steps=0" in out and "++steps=1" in out
    _, out, _ = sa(*words, "sweep.points=['estimator=cdg','estimator=nes dim=5']", "seed=0,1")
    assert "4 points" in out and out.count("estimator=nes dim=5") == 2
    mine = ["estimator=cdg", "estimator=cdg estimator.epsilon=0.2", "estimator=cdg dim=5"]
    _, out, _ = sa(*words, f"sweep.points={mine}")  # one's settings do not stay for another
    alone = [sa(*SMALL, "sweep.dry_run=true", *w.split())[1].split("run id ")[1][:10] for w in mine]
    assert [x.split()[1] for x in out.splitlines()[1:]] == alone and len(set(alone)) == 3
    _, out, _ = sa(*words, "seed=0,1", "dim=4,5", "sweep.exclude=['dim=5 seed=1']")
    assert "3 points" in out and "seed=1 dim=5" not in out


def test_a_typed_word_that_listed_points_set_themselves_is_not_lost_in_silence(sa):
    words = ["-m", *SMALL, "sweep.dry_run=true", "sweep.points=['dim=5 seed=1','seed=2']"]
    code, _, err = sa(*words, "seed=3")
    assert code == 2 and "seed: every one of the listed points sets it" in err
    code, out, err = sa(*words)
    assert code == 0 and "note: dim: 1 of the 2 listed points set their own" in err
    assert "dim=5 seed=1" in out


@pytest.mark.parametrize("key", ["zip", "points", "exclude"])
def test_a_list_of_a_sweep_without_brackets_is_told(sa, key):
    for given in ("seed", "3"):
        code, _, err = sa("-m", *SMALL, "seed=0,1", f"sweep.{key}={given}")
        assert code == 2 and f"sweep.{key}={given}: expected a list" in err, err


def test_a_bounded_pool_computes_what_one_process_does(sa):
    words = ["-m", *SMALL, "analysis=[]", "estimator=nes", "estimator.samples=5"]
    code, out, err = sa(*words, "seed=0,1,2", "sweep.name=pool", "hydra/launcher=local",
                        "hydra.launcher.workers=2")  # fmt: skip
    assert code == 0, err
    pooled = {p.name: json.loads((p / "result.json").read_text()) for p in Path("runs").iterdir()}
    code, _, err = sa(*words, "seed=0,1,2", "sweep.name=alone", "root=other")
    assert code == 0, err
    for name, one in pooled.items():
        here = json.loads((Path("other/runs") / name / "result.json").read_text())
        assert here | {"seconds": 0} == one | {"seconds": 0}
        assert "run: " in (Path("runs") / name / "log.txt").read_text()


FAILS = [
    "init=ste_500",
    "init.batch_size=null",
    "init.steps=2",
    "init.optimizer.lr=1e300",
    "analysis=[]",
]


def test_a_pool_tells_failures_and_stops_after_enough_of_them(sa):
    words = ["-m", *SMALL, *FAILS, "seed=0,1,2,3,4,5", "hydra/launcher=local"]
    words += ["hydra.launcher.workers=1", "hydra.launcher.points_per_job=1", "sweep.name=bad"]
    code, out, err = sa(*words, "sweep.max_failures=2")
    assert code == 1 and out.count("FAILED") == 2 and "4 were not started" in err, (out, err)
    assert "the parent run" in out
    code, out, err = sa("-m", *SMALL, *FAILS, "seed=0,1,2", "sweep.canary=true", "sweep.name=yell")
    assert code == 1 and "the canary failed, no other point was started" in err
    assert out.count("FAILED") == 1


def test_a_snapshot_is_what_runs(sa):
    words = ["-m", *SMALL, "analysis=[]", "seed=0,1", "sweep.name=snap", "sweep.snapshot=true"]
    code, _, err = sa(*words, "hydra/launcher=local")
    assert code == 0, err
    code_ = Path("sweeps/snap/code")
    assert (code_ / "sa/run.py").read_bytes() == (ROOT / "sa/run.py").read_bytes()
    assert (code_ / "conf/config.yaml").exists()
    own = json.loads((code_ / "commit.json").read_text())  # of the code, not of where it lies now
    assert own == provenance.commit()
    for kept in Path("runs").iterdir():
        meta = json.loads((kept / "meta.json").read_text())
        assert {k: meta[k] for k in own} == own


def test_a_repository_that_has_not_the_code_is_not_its_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "sa" / "record").mkdir(parents=True)
    words = ["-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "c"]
    subprocess.run(["git", *words, "--allow-empty"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "sa/record/provenance.py"))
    monkeypatch.setattr(provenance, "_COMMIT", {})
    assert provenance.commit() == {"commit": None, "dirty": False}


@pytest.mark.slow
def test_a_search_by_optuna_maximises_the_objective_and_resumes(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_optuna_sweeper", reason="needs pip install -e '.[optuna]'"
    )
    words = [*SMALL, "estimator=cdg", "estimator.epsilon=tag(log,interval(0.01,1))"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "SA_ROOT": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}
    found = {}
    for trials in ("2", "3"):
        told = subprocess.run(
            [ROOT / "launchers/optuna.sh", *words], env=env | {"TRIALS": trials},
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        kept, found = found, {p: p.stat().st_mtime for p in tmp_path.glob("runs/*/result.json")}
        assert len(found) == int(trials) and kept.items() <= found.items()
        best = yaml.safe_load((tmp_path / "sweeps/optuna/optimization_results.yaml").read_text())
        results = [json.loads(p.read_text())["descent/best"] for p in found]
        assert best["best_value"] == max(results)
        assert 0.01 <= best["best_params"]["estimator.epsilon"] <= 1


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_hydras_own_launchers_keep_working(sa, launcher):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    words = ["-m", *SMALL, "analysis=[]", "seed=0,1", f"sweep.name={launcher}"]
    code, out, err = sa(*words, f"hydra/launcher={launcher}")
    assert code == 0, (out, err)
    assert "0 of 2 to do" in sa(*words)[1]


def test_sigterm_ends_a_training_as_interrupted(sa, tmp_path):
    words = "-m sa.run experiment=digits_ste steps=100000 tracker=none figure=[]".split()
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    for _ in range(600):
        time.sleep(0.1)
        kept = list(Path("runs").glob("*"))
        if kept and record.read_rows(kept[0]):
            break
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "repeat the command" in err
    told = record.load_status(kept[0])
    assert told["state"] == "interrupted" and "SIGTERM" in told["error"]


def test_two_local_drivers_share_a_sweep(tmp_path):
    env = os.environ | {"SA_ROOT": str(tmp_path)}
    words = [*SMALL, "steps=500", "evaluate_every=null", "sweep.name=both", "seed=range(4)"]
    words += ["hydra/launcher=local", "hydra.launcher.workers=2"]
    command = [sys.executable, "-m", "sa.run", "-m", *words]
    drivers = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for driver in drivers:
        out, err = driver.communicate(timeout=120)
        assert driver.returncode == 0 and "FAILED" not in out, (out, err)
    points = sweep.read_manifest(tmp_path, "both")[1]
    assert all(record.load_status(tmp_path / "runs" / p["run_id"])["restarts"] == 0 for p in points)


@pytest.mark.parametrize("how", ["cancel", "SIGTERM"])
def test_a_cancelled_local_driver_takes_its_workers_with_it(tmp_path, how):
    env = os.environ | {"SA_ROOT": str(tmp_path)}
    words = [*SMALL, "steps=5000000", "sweep.name=long", "seed=range(4)", "hydra/launcher=local"]
    command = [sys.executable, "-m", "sa.run", "-m", *words, "hydra.launcher.workers=1"]
    driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while time.time() < deadline:
        if any(p.stat().st_size > 1000 for p in tmp_path.glob("runs/*/metrics.jsonl")):
            break
        time.sleep(0.05)
    if how == "cancel":
        done = python("-m", "sa.sweep", "cancel", "long", env=env)
        assert "1 processes told to stop" in done.stdout, done
    else:
        driver.terminate()
    driver.communicate(timeout=60)
    assert driver.returncode in (2, 130)
    states = [record.state(p) for p in (tmp_path / "runs").iterdir()]
    assert sorted(states) == ["interrupted", "pending", "pending", "pending"]


def test_an_edited_manifest_is_said_and_the_command_writes_it_anew(sa):
    words = ["-m", *SMALL, "seed=0,1", "sweep.name=edited"]
    sa(*words)
    path = Path("sweeps/edited/manifest.jsonl")
    for damage in ("garbage", path.read_text().replace("seed=0", "seed=9")):
        path.write_text(damage)
        with pytest.raises(files.RecordError, match="writes the manifest anew"):
            sweep.read_manifest(".", "edited")
        code, out, err = sa(*words)
        assert code == 0 and "0 of 2 to do" in out, err
        assert len(sweep.read_manifest(".", "edited")[1]) == 2


# Data that lie in files


@pytest.mark.parametrize(("words", "told"), [
    (["estimator=nes", "estimator.sigma=-1"], "estimator.sigma=-1"),
    (["batch_size=60000"], "batch_size"),
    (["analysis=[critical_points]"], "analysis.critical_points"),
    (["init=ste_500", "init.estimator.surrogate=foo"], "foo"),
    (["clip=1", "quantizer=fp"], "clip: no layer"),
    (["tracker.mode=nope"], "tracker.mode"),
    (["replicas=3"], "replicas"),
])  # fmt: skip
def test_missing_data_hide_no_other_error(sa, words, told):
    given = ["dataset=cifar10", "model=cnn_relu", *words]
    code, _, err = sa(*given)
    assert code == 2 and told in err and "cifar-10-batches-py" not in err
    code, _, err = sa("-m", "estimator=cdg,ste", *given[:2], "seed=0,-1", "analysis=[]")
    assert code == 2 and "point 1" in err and "seed=-1" in err


def test_a_dry_run_plans_whatever_the_machine_lacks(sa, monkeypatch):
    """Of what keeps a plan from running it tells, and nothing is written."""
    monkeypatch.setenv("PATH", "/nowhere")
    words = ["dataset=cifar10", "model=cnn_relu", "analysis=[]", "device=cuda"]
    code, out, err = sa(*words, "sweep.dry_run=true")
    assert code == 0 and "valid; run id" in out and "note: " in err
    for launcher in ("inline", "local", "slurm"):
        more = ["seed=0,1", f"hydra/launcher={launcher}", "sweep.dry_run=true"]
        code, out, err = sa("-m", *words, *more)
        assert code == 0 and out.count("pending") == 2 and err.count("note: ") == 1, err
    assert "sbatch is not found" in err
    code, out, err = sa("-m", *words[:3], "seed=0,1", "sweep.dry_run=true")
    assert code == 0 and out.count("pending") == 2 and "cifar-10-batches-py" in err
    assert not list(Path(".").iterdir())


def test_a_dry_run_of_other_points_under_a_name_that_exists_is_a_plan(sa):
    words = ["-m", *SMALL, "analysis=[]", "sweep.name=one"]
    sa(*words, "seed=0,1")
    code, out, err = sa(*words, "seed=1,2", "sweep.dry_run=true")
    assert code == 0 and "2 points, 1 of 2 to do" in out
    assert "note: sweep.name=one: a sweep of this name has 1 points" in err
    assert len(sweep.read_manifest(".", "one")[1]) == 2


def test_words_of_sweeps_that_one_run_does_not_heed_are_told(sa):
    code, _, err = sa(*SMALL, "hydra/launcher=local", "sweep.points=['dim=3']", "analysis=[]")
    assert code == 0 and "has no effect on one run; write -m to sweep" in err
    assert "sweep.points" in err and "hydra/launcher=local" in err


def test_cifar10_from_a_folder_whose_place_is_no_part_of_the_run(sa, monkeypatch, tmp_path):
    words = ["dataset=cifar10", "dataset.n=20", "model=cnn_relu", "analysis=[]", "tracker=none"]
    for place in ("here", "there"):
        cifar(tmp_path / place, rows=5)
    code, out, err = sa(*words, "dataset.root=here", "steps=2")
    assert code == 0, err
    assert {"train/accuracy", "test/accuracy"} <= set(result(out))
    first = folder(out)
    monkeypatch.setenv("SA_DATA", str(tmp_path / "there" / "cifar-10-batches-py"))
    assert folder(sa(*words, "steps=2")[1]) == first
    assert folder(sa(*words, "steps=2", "dataset.n=10")[1]) != first


def test_a_sweep_without_its_data_starts_nothing_and_a_worker_skips(sa, tmp_path):
    words = ["-m", "dataset=cifar10", "dataset.n=20,10", "model=cnn_relu", "analysis=[]"]
    words += ["tracker=none", "sweep.name=pictures"]
    code, _, err = sa(*words)
    assert code == 2 and "cifar-10-batches-py" in err and not Path("sweeps").exists()
    cifar(tmp_path / "data", rows=5)
    code, _, err = sa(*words)
    assert code == 0, err
    folders = sorted(Path("runs").iterdir())
    for kept in folders:  # as if frozen by the driver on a machine that has the data
        for path in kept.iterdir():
            if path.name != "config.yaml":
                path.unlink()
    (tmp_path / "data").rename("elsewhere")
    code, _, err = sa("--frozen", *map(str, folders))
    assert code == 1 and "use dataset=digits" in err
    for kept in folders:
        assert record.state(kept) == "skipped"
        assert "cifar-10-batches-py" in record.load_status(kept)["error"]
    code, _, err = sa(*words, "dataset.root=elsewhere")  # the frozen place is replaced
    assert code == 0, err
    assert sa("--frozen", *map(str, folders))[0] == 0
    assert [record.state(kept) for kept in folders] == ["done", "done"]


def test_a_run_whose_parent_lacks_data_is_skipped_too(sa, tmp_path):
    cifar(tmp_path / "data", rows=5)
    words = ["dataset=cifar10", "dataset.n=20", "model=cnn_relu", "analysis=[]", "tracker=none"]
    code, out, err = sa(*words, "init=ste_500", "init.steps=1", "init.batch_size=10")
    assert code == 0, err
    config = yaml.safe_load((folder(out) / "config.yaml").read_text())
    shutil.rmtree("runs")
    shutil.rmtree("data")
    with pytest.raises(NoData):
        execute.execute(config)
    assert [record.state(kept) for kept in Path("runs").iterdir()] == ["skipped", "skipped"]


def test_a_thin_xnor_resnet_is_probed_and_trained(sa):
    words = ["model=xnor_resnet18", "model.init_channels=8", "model.shape=[1,8,8]"]
    words += ["dataset=digits", "batch_size=32", "tracker=none"]
    code, out, err = sa(*words, "moving=[1,8,-2]", "analysis=[]")
    assert code == 0, err
    assert result(out)["parameters"] == 9 * (8 * 8 + 16 * 16 + 64 * 64)
    words += ["quantizer=bwba", "steps=3", "analysis=[]", "dtype=float32"]
    code, out, err = sa(*words)
    assert code == 0, err
    assert result(out)["parameters"] == 176_418 - 9 * 8 * 2  # one channel in, not three


def test_one_convolution_of_a_pretrained_network(sa):
    words = ["model=xnor_resnet18", "model.init_channels=2", "model.shape=[1,8,8]", "analysis=[]"]
    words += ["dataset=digits", "batch_size=16", "tracker=none", "estimator=cdg", "moving=[1,8]"]
    words += ["init=ste_500", "init.steps=2", "init.batch_size=16"]
    code, _, err = sa(*words, "estimator.path=fast")
    assert code == 2 and "batchnorm=running" in err
    words += ["batchnorm=running"]
    code, _, err = sa(*words, "estimator.path=fast", "moving=[block1.*]")
    assert code == 2 and "block1.body.norm1.weight" in err
    code, out, err = sa(*words, "estimator.path=fast")
    assert code == 0, err
    ways = "block1.body.conv1.weight patterns, block4.body.conv2.weight suffixes"
    assert f"(fast path: {ways})" in out
    (parent,) = Path("runs").glob("*/checkpoint.pt")  # a probe keeps none
    before = yaml.safe_load((parent.parent / "config.yaml").read_text())
    assert (before["moving"], before["batchnorm"]) == ("all", "batch")
    saved = torch.load(parent)
    saved["params"] = {k: v[:1] for k, v in saved["params"].items()}  # another model's
    torch.save(saved, parent)
    code, out, err = sa(*words, "estimator.epsilon=0.2")
    assert code == 1 and str(parent) in err and "another network" in err


def test_an_unbiased_estimator_of_a_random_network_against_its_own_truth(sa):
    words = [*SMALL, "estimator=reinforce", "quantizer=sba", "analysis=[bias_variance_stochastic]"]
    code, out, err = sa(*words)
    assert code == 0 and "replicates" in out, err
    got = result(out)
    assert got["bias_variance/across"] == 0
    assert abs(got["bias_variance/bias2"]) < 0.1 * got["bias_variance/variance"]


def test_a_formula_is_a_run(sa):
    words = ["model=quadratic", "dataset=point", "estimator=cdg", "tracker=none"]
    got = result(sa(*words)[1])
    assert got["parameters"] == 8 and got["alignment/cosine"] == pytest.approx(1)
    got = result(sa(*words, "steps=50", "optimizer.lr=1", "optimizer.momentum=0")[1])
    assert got["value"] == got["train/loss"] == got["test/loss"] > 0
    assert got["value"] < 0.3 * result(sa(*words)[1])["value"]


# What it refuses: a message of one screen, before any work, and nothing written


def test_analyses_around_the_point_of_a_training(sa):
    words = ["dataset=sinc", "dataset.n=20", "model=mlp_relu", "model.hidden=[4]", "quantizer=fp"]
    words += ["model.activation=tanh", "estimator=ste", "steps=4", "batch_size=8"]
    words += ["analyse_every=2", "tracker=none"]
    rooms = "gradient_norm,critical_points,input_sensitivity,sharpness,surface"
    code, out, err = sa(*words, f"analysis=[{rooms}]", "analysis.surface.points=3")
    assert code == 0, err
    for line in ("gradient   ", "critical point", "  Hessian", "sensitivity", "sharp", "surf"):
        assert f"\n{line}" in out
    run = folder(out)
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    analysed = [r["step"] for r in rows if "gradient_norm/successive" in r]
    assert analysed == [0, 2, 4]  # as the run trains
    assert rows[-1]["critical_points/parameters"] == 13
    plain = sa(*words, "analysis=[]")[1]
    bare = [json.loads(x) for x in (folder(plain) / "metrics.jsonl").read_text().splitlines()]
    assert [r["loss"] for r in bare] == [r["loss"] for r in rows]
    assert (
        "WARNING"
        in sa(*words, "analysis=[critical_points]", "analysis.critical_points.solver=l1")[1]
    )


REFUSED = [
    (["root=null"], ["root=null: expected a folder", "root=results"]),
    (["estimator=nees"], ["estimator=nees", "did you mean estimator=nes?", "cdg"]),
    (["estimator.sgima=1"], ["estimator.sgima", "'sigma' is a setting of estimator="]),
    (["estimator=nes", "estimator.sgima=1"], ["did you mean estimator.sigma?"]),
    (
        ["experiment=branches", "until={train/accuracy:0.9}"],
        ["until: the study has a goal of its own", "++until={train/accuracy:0.9}"],
    ),
    (["estimator=cdg", "estimator.sigma=1"], ["estimator=cdg has: epsilon, path"]),
    (["+estimator.foo=1"], ["estimator.foo", "surrogate, scale"]),
    (["estimator=nes", "estimator.sigma=abc"], ["estimator.sigma=abc", "number"]),
    (["estimator=nes", "estimator.sigma=-1"], ["estimator.sigma=-1", "greater than 0"]),
    (["estimator=nes", "estimator.sigma=nan"], ["estimator.sigma=nan", "finite"]),
    (["estimator=nes", "estimator.samples=0"], ["estimator.samples=0", "greater than 0"]),
    (["estimator=nes", "estimator.baseline=mean"], ["antithetic=false"]),
    (["estimator=local_nes", "model=cnn", "dataset=digits"], ["norm1", "batchnorm=running"]),
    (
        ["estimator=local_nes", "model=cnn", "dataset=digits", "model.norm=none"],
        ["conv1.weight", "estimator=nes"],
    ),
    (["estimator=local_nes", "moving=[fc1.*]"], ["frozen", "head.weight"]),
    (
        ["estimator=cdg", "estimator.path=fast", "model=cnn", "dataset=digits"],
        ["norm1", "batchnorm=running", "brute"],
    ),
    (["dataset=cifar10", "model=fc_tanh"], ["dataset=digits to run offline", "c58f30108f718f92"]),
    (["-m", "dataset=digits,cifar10_1k", "model=resnet32"], ["point 0", "model.shape=[1,8,8]"]),
    (["model=rosenbrock"], ["Rosenbrock", "dataset=point"]),
    (["model=rosenbrock", "dataset=point", "criterion=mse"], ["criterion: mse", "criterion=auto"]),
    (["model=mlp", "dataset=digits", "criterion=value"], ["criterion: value", "MLP is none"]),
    (["model=mlp_relu", "dataset=digits"], ["FC", "(1,)", "(1, 8, 8)"]),
    (["memory=100"], ["memory: 100", "one row", "set memory=5472"]),
    (
        ["memory=100000", "model=cnn", "dataset=digits"],
        ["1437 rows", "set memory=", "batchnorm=running"],
    ),
    (["estimator=cdg", "estimator.path=fast", "quantizer=bwba"], ["fc2", "quantized"]),
    (["figure=[pie]"], ["figure=pie", "lr_decrease", "curves"]),
    (["figure=[{kind: lines, x: dim}]"], ["{kind: lines, x: COLUMN, y: COLUMN", "x and y"]),
    (["dim=0"], ["dim=0", ">= 1"]),
    (["seed=0.5"], ["seed=0.5"]),
    (["steps=-1"], ["steps=-1", ">= 0"]),
    (["diverge=1"], ["diverge=1", "greater than 1"]),
    (
        [
            "estimator=forward_gradient",
            "estimator.surrogate=clipped",
            "steps=2",
            "processes=2",
            "analysis=[]",
        ],
        ["processes", "back-propagation alone"],
    ),
    (
        [
            "estimator=forward_gradient",
            "estimator.surrogate=clipped",
            "steps=2",
            "replicas=2",
            "analysis=[]",
        ],
        ["replicas", "one back-propagation"],
    ),
    (
        [
            "estimator=spectral_ste",
            "estimator.refresh=2",
            "optimizer.momentum=0",
            "steps=2",
            "estimator.n_filter=2",
            "processes=2",
            "analysis=[]",
        ],
        ["processes", "back-propagation alone"],
    ),
    (["estimator=ste", "analysis=bias_variance_stochastic"], ["reference", "quantizer=sba"]),
    (
        [
            "estimator=forward_gradient",
            "estimator.surrogate=clipped",
            "quantizer/gradient=terngrad",
        ],
        ["estimator", "quantizer.gradient has no effect", "gradient=none"],
    ),
    (["dtype=float16"], ["dtype=float16", "float32"]),
    (["device=cuda"], ["device", "device=cpu"]),
    (["device=tpu"], ["device=tpu", "cuda"]),
    (["dataset=imagenet"], ["there is no such dataset", "digits"]),
    (["dataset=digits"], ["ToyMLP", "(8,)", "Digits", "(1, 8, 8)"]),
    (["dataset=digits", "model=mlp", "model.outputs=3"], ["3 outputs", "10 classes"]),
    (["criterion=ce"], ["ce needs classes", "mse"]),
    (["moving=[9]"], ["no quantized layer 9", "fc2"]),
    (["moving=[nope]"], ["nope", "fc1.weight"]),
    (["moving=fc1"], ["moving=fc1", "moving=[fc1.*]"]),
    (["optimizer.lr=-1"], ["optimizer", "learning rate"]),
    (["estimator._target_=os.system"], ["refused", "os.system"]),
    (["estimator._target_=sa.record.run.os.system"], ["refused"]),
    (["optimizer._target_=torch.optim.Foo"], ["no such class"]),
    (["expirement=x"], ["did you mean experiment?"]),
    (["size=full"], ["size=full, of experiment={", "descent_dims"]),
    (["experiment=digits_ste", "size=full"], ["size=full, of experiment={"]),
    (["experiment=descent_dims", "size=small"], ["size=quick", "size=full"]),
    (["stored=fixed_point"], ["stored=fixed_point", "+quantizer/weight@stored=fixed_point"]),
    (["+quantizer/weight@stored=pact"], ["quantizer/weight=pact", "there is no such"]),
    (["+quantizer/weight@stored=lsq"], ["stored: LSQ keeps something", "train=auto"]),
    (
        ["+quantizer/weight@stored=fixed_point", "replicas=2", "steps=2", "analysis=[]"],
        ["replicas: stored looks at one network; set stored=null"],
    ),
    (["-m", "seed=0,1", "expectations=[{id: x}]"], ["expectations", "statistic"]),
    (["experiment=digit_ste"], ["did you mean experiment=digits_ste?"]),
    (["quantizer/weight=xnorr"], ["did you mean quantizer/weight=xnor?"]),
    (["analysis.descent.points=1"], ["analysis.descent.points=1", "greater than or equal to 3"]),
    (
        ["analysis=[critical_points]"],
        ["analysis.critical_points", "act1.activation", "no view of this network", "quantizer=fp"],
    ),
    (
        ["analysis=[critical_points]", "dataset=digits", "model=mlp", "quantizer=fp"],
        ["the Hessian of 26122 parameters", "MiB", "analysis=curvature"],
    ),
    (["analysis=[sharpness]"], ["analysis.sharpness", "view=smoothed"]),
    (["analysis=[input_sensitivity]"], ["analysis.input_sensitivity", "view=smoothed"]),
    (["analysis=[surface]", "analysis.surface.points=4"], ["points=4", "odd"]),
    (
        [
            "analysis=[interpolation]",
            "analysis.interpolation.align=true",
            "dataset=digits",
            "model=xnor_resnet18",
            "model.shape=[1,8,8]",
            "batchnorm=running",
        ],
        ["analysis.interpolation: align: layer 'block", "binds units", "align=false"],
    ),
    (
        [
            "analysis=[interpolation]",
            "analysis.interpolation.align=true",
            "dataset=digits",
            "model=mlp",
            "quantizer/activation=pact",
        ],
        ["align: the quantizer of layer 'act1' keeps numbers of its own", "align=false"],
    ),
    (
        ["analysis=[surface]", "analysis.surface.axes=eigenvectors"],
        ["analysis.surface", "is a step", "no view", "axes=random and axes=pca"],
    ),
    (
        ["analysis=[surface]", "analysis.surface.axes=pca"],
        ["analysis.surface", "there is no training", "init.snapshot_every=STEPS"],
    ),
    (
        ["analysis=[surface]", "analysis.surface.axes=pca", "steps=9", "snapshot_every=9"],
        ["analysis.surface", "three or more", "it keeps 2", "set snapshot_every=STEPS"],
    ),
    (
        [
            "analysis=[surface]",
            "analysis.surface.axes=pca",
            "dataset=sinc",
            "model=mlp_relu",
            "model.hidden=[2]",
            "moving=[fc1.bias]",
            "quantizer=fp",
        ],
        ["analysis.surface: fc1.bias: 2 parameters", "moving=all"],
    ),
    (["dim=[1"], ["KEY=VALUE"]),
    (["init=ste_500", "init.steps=0"], ["init.steps=0"]),
    (["init=ste_500", "init.estimator.surrogate=foo"], ["parent", "foo"]),
    (["-m", "estimator=nes", "estimator.sigma=0.1,-2"], ["point 1", "estimator.sigma=-2"]),
    (["-m", "estimator=nes,foo"], ["estimator=foo"]),
    (["-m", "sweep.name=a/b", "seed=0,1"], ["a/b"]),
    (["-m", "seed=range(0,0)"], ["seed", "no values"]),
    (["-m", "seed=0,1", "root=a,b"], ["root", "one value"]),
    (["-m", "seed=0,1", "sweep.name=a,b"], ["sweep", "one value"]),
    (["-m", "estimator=ste,cdg", "estimator.samples=9"], ["estimator=ste has: surrogate, scale"]),
    (["seed=0,1"], ["seed=0,1", "write -m"]),
    (
        ["-m", "seed=0,1", "sweep.zip=[seed,dim]"],
        ["dim is not swept; swept are: seed"],
    ),
    (["-m", "seed=0,1", "dim=3,4,5", "sweep.zip=[seed,dim]"], ["seed has 2", "dim has 3"]),
    (["-m", "sweep.points=[dim]", "seed=0,1"], ["KEY=VALUE"]),
    (["-m", "seed=0,1", "sweep.exclude=['seed=0','seed=1']"], ["leaves none of the 2"]),
    (["-m", "seed=0,1", "sweep.exclude=['sede=0']"], ["sweep.exclude", "sede is not swept: seed"]),
    (["estimator=ste", "estimator.temperature=0.5"], ["temperature cannot change hard states"]),
    (["-m", "seed=0,1", "sweep.max_failures=0"], ["sweep.max_failures=0", ">= 1"]),
    (["-m", "seed=0,1", "hydra/launcher=local", "hydra.launcher.workers=0"], ["workers=0"]),
    (["-m", "seed=0,1", "hydra/launcher=slrm"], ["there is no such", "slurm"]),
    (["+foo=1"], ["foo: there is no such setting"]),
    (["init=ste_500", "+init.dim=16"], ["init.dim", "batch_size, batchnorm"]),
    (["estimator=nes", "estimator.samples=true"], ["estimator.samples=true", "number"]),
    (["estimator=nes", "estimator.sigma=null"], ["estimator.sigma=null"]),
    (["estimator=nse"], ["did you mean estimator=nes?"]),
    (["analysis={}"], ["analysis={} changes nothing"]),
    (["~analysis"], ["analysis", "analysis=[]"]),
    (["sweep.dry_run=maybe"], ["sweep.dry_run=maybe", "true or false"]),
    (["batch_size=100000"], ["16384", "batch_size=null"]),
    (["estimator=nes", "quantizer/gradient=uniform"], ["has no effect on it", "gradient=none"]),
    (["optimizer._target_=torch.optim.Rprop"], ["~optimizer.momentum"]),
    (["steps=9", "epochs=2"], ["steps=9 epochs=2: both set", "give one of them"]),
    (["epochs=0"], ["epochs=0", ">= 1"]),
    (["schedule=cosin"], ["did you mean schedule=cosine?"]),
    (["steps=9", "schedule=warmup"], ["schedule.warmup=100", "the training of 9 steps"]),
    (["schedule=step", "schedule.at=[0.5,0.2]"], ["at=[0.5, 0.2]", "shares that rise"]),
    (["average=ema", "average.decay=1"], ["average.decay=1", "less than 1"]),
    (["average.decay=0.5"], ["average=ema|swa"]),
    (["clip=1"], ["clip", "quantizer=bwba"]),
    (["clip=-1", "quantizer=bwba"], ["clip=-1", "greater than 0"]),
    (["steps=9", "evaluate_every=1", "until={loss:1}"], ["'loss' is no goal", "train/loss"]),
    (["steps=9", "evaluate_every=1", "until={test/accuracy:1}"], ["accuracies need classes"]),
    (["steps=9", "until={train/loss:1}"], ["until", "evaluate_every"]),
    (["steps=9", "evaluate_every=1", "until={ema/test/loss:1}"], ["set average=ema"]),
    (["replicas=0"], ["replicas=0", ">= 1"]),
    (
        ["analysis=bias_variance_gaussian", "estimator=nes_auto"],
        ["analysis.bias_variance.reference.sigma=auto", "a number is needed"],
    ),
    (["processes=2", "steps=9", "analysis=[]", "estimator=nes"], ["estimator=ste", "sweep"]),
    (["processes=2", "steps=9"], ["processes", "analysis=[]"]),
    (["processes=2", "steps=9", "analysis=[]", "replicas=3"], ["processes", "replicas=null"]),
    (
        ["processes=2", "steps=9", "analysis=[]", "dataset=digits", "model=cnn"],
        ["processes: BatchNorm", "batchnorm=running"],
    ),
    (["processes=9", "steps=9", "analysis=[]", "batch_size=8"], ["8 rows", "processes=8"]),
    (["autocast=bfloat16", "steps=9", "analysis=[]"], ["autocast", "dtype=float32"]),
    (["autocast=float16"], ["autocast=float16", "bfloat16"]),
    (
        ["autocast=bfloat16", "dtype=float32", "steps=9", "analysis=[]", "estimator=mezo"],
        ["autocast", "estimator=ste", "autocast=null"],
    ),
    (["compile=3"], ["compile=3", "true or false"]),
    (["compile=true"], ["compile", "steps or epochs"]),
    (["replicas=3", "steps=9"], ["replicas", "analysis=[]"]),
    (["replicas=3", "analysis=[]"], ["replicas", "steps or epochs"]),
    (["replicas=3", "steps=9", "analysis=[]", "estimator=nes"], ["estimator=ste", "seed"]),
    (
        ["replicas=3", "steps=9", "analysis=[]", "dim=3", "quantizer/weight=lsq"],
        ["replicas", "keeps a range or levels"],
    ),
    (["analysis=interpolation"], ["analysis.interpolation", "ends=[RUN,RUN]"]),
    (["analysis=interpolation", "ends=[nope,no]"], ["no finished run and no sweep 'nope'"]),
    (["ends=[{steps: 3}]"], ["ends: expected two trainings, there are 1"]),
    (["ends=[{steps: 3},{steps: 0}]"], ["ends.steps=0", "has to train"]),
    (["ends=[{steps: 3},{dim: 9}]"], ["ends.dim", "batch_size"]),
    (["ends=[{steps: 3},{estimator: stee,steps: 3}]"], ["ends: estimator=stee", "estimator=ste"]),
    (["ends={first:{steps: 3},third:{steps: 3}}"], ["ends: expected two trainings, there are 1"]),
    (["init_seed=-1"], ["init_seed=-1", ">= 0"]),
    (["init_seed=1", "init=ste_100"], ["init_seed", "init=none"]),
    (["replicas=3", "steps=9", "analysis=[]", "init_seed=1"], ["replicas", "init_seed=null"]),
    (["init=ste_100", "init.optimizer=adm"], ["init: optimizer=adm", "adam"]),
    (["init=ste_100", "+init.average=emma"], ["init: average=emma", "ema"]),
    (["optimizer._target_=torch.optim.LBFGS", "steps=2"], ["optimizer=LBFGS", "optimizer=adam"]),
    (["optimizer._target_=torch.optim.SparseAdam"], ["optimizer=SparseAdam", "optimizer=adam"]),
    (
        ["replicas=3", "steps=9", "analysis=[]", "evaluate_every=1", "until={train/loss:1}"],
        ["replicas: until", "until=null"],
    ),
    (["ends=[{steps: 3},{steps: 4}]", "steps=3"], ["steps: a run that looks at ends", "steps=0"]),
    (["analysis=function_curve"], ["analysis.function_curve", "dataset=sinc"]),
    (["snapshot_every=0"], ["snapshot_every=0", ">= 1"]),
    (
        ["quantizer/weight=uniform", "quantizer.weight.granularity=group:7"],
        ["sa: model: granularity=group:7", "(8, 8)"],
    ),
    (["quantizer_lr=0"], ["quantizer_lr=0", "greater than 0"]),
    (["recalibrate=maybe"], ["recalibrate=maybe", "true or false"]),
    (["quantizer=fp", "analysis=quant_error"], ["analysis.quant_error", "quantizer=fixed8"]),
    (
        ["quantizer=bwba", "analysis=sensitivity_bits"],
        ["analysis.sensitivity_bits", "fc2.weight", "quantizer/weight=none"],
    ),
    (
        ["analysis=sensitivity_bits", "analysis.sensitivity_bits.budget=1"],
        ["no layer has fewer than 2 bits"],
    ),
    (["init=ste_500", "init_average=true"], ["init_average", "init.average"]),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_refuses_before_any_work(sa, words, told):
    code, out, err = sa(*words)
    assert code == 2, (out, err)
    for word in told:
        assert word in err
    assert "Traceback" not in err and len(err.splitlines()) < 12
    assert not Path("runs").exists() and not Path("sweeps").exists()


def test_refuses_a_root_it_cannot_write(sa):
    Path("file").write_text("")
    code, _, err = sa(*SMALL, "root=file/below")
    assert code == 2 and "root=file/below" in err and "SA_ROOT" in err


def test_a_damaged_checkpoint_is_said_and_nothing_is_touched(sa):
    words = ["experiment=digits_ste", "steps=20", "tracker=none", "figure=[]"]
    kept = folder(sa(*words)[1])
    (kept / "result.json").unlink()
    damaged = (kept / "checkpoint.pt").read_bytes()[:500]
    (kept / "checkpoint.pt").write_bytes(damaged)
    rows = (kept / "metrics.jsonl").read_bytes()
    code, _, err = sa(*words)
    assert code == 1 and "checkpoint.pt" in err and "delete it" in err
    assert (kept / "checkpoint.pt").read_bytes() == damaged
    assert (kept / "metrics.jsonl").read_bytes() == rows
    (kept / "checkpoint.pt").unlink()
    assert sa(*words)[0] == 0


def test_a_corrupt_row_is_said_by_line(sa):
    words = ["experiment=digits_ste", "steps=20", "tracker=none", "figure=[]"]
    kept = folder(sa(*words)[1])
    (kept / "result.json").unlink()
    lines = (kept / "metrics.jsonl").read_text().splitlines()
    lines[3] = lines[3][:7]
    (kept / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    code, _, err = sa(*words)
    assert code == 1 and "metrics.jsonl, line 4" in err and "Delete that line" in err


def test_a_full_disk_ends_the_run_and_keeps_what_was_there(sa, monkeypatch):
    import torch

    words = ["experiment=digits_ste", "steps=40", "tracker=none", "figure=[]"]
    words.append("checkpoint_seconds=0")
    sound, calls = torch.save, []

    def full(state, path):
        calls.append(path)
        if len(calls) > 5:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        sound(state, path)

    monkeypatch.setattr(torch, "save", full)
    code, _, err = sa(*words)
    assert code == 1 and "No space left" in err and "repeat the command" in err
    kept = next(Path("runs").iterdir())
    assert record.state(kept) == "failed" and not list(kept.glob(".tmp*"))
    saved = torch.load(kept / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4  # the fifth checkpoint, whole
    monkeypatch.setattr(torch, "save", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step 4" in out


def test_stopped_half_way_with_everything_on_and_repeated_ends_with_the_same_numbers(
    sa, monkeypatch
):
    import torch

    words = ["model=cnn", "dataset=digits", "quantizer=bwba", "analysis=[]", "tracker=none"]
    words += ["epochs=2", "batch_size=128", "evaluate_every=5", "schedule=cosine", "average=ema"]
    words += ["schedule.warmup=4", "average.decay=0.9", "recalibrate=true", "clip=0.3"]
    words += ["optimizer=adam", "optimizer.weight_decay=0.1", "until={ema/train/loss:0.01}"]
    words += ["model.channels=[3,4]", "checkpoint_seconds=0", "dtype=float32"]
    whole = folder(sa(*words, "root=calm")[1])
    sound, calls = torch.save, []

    def killed(state, path):
        calls.append(path)
        if len(calls) > 8:
            raise KeyboardInterrupt
        sound(state, path)

    monkeypatch.setattr(torch, "save", killed)
    assert sa(*words)[0] == 130
    monkeypatch.setattr(torch, "save", sound)
    code, out, err = sa(*words)
    assert code == 0 and "going on from step 7 of 22" in out, (out, err)
    again = folder(out)
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    mine, theirs = (json.loads((p / "result.json").read_text()) for p in (again, whole))
    assert mine | {"seconds": 0} == theirs | {"seconds": 0}
    ours, other = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (again, whole))
    for name, value in ours["average"]["params"].items():
        assert torch.equal(value, other["average"]["params"][name])


# As a newcomer would


def test_killed_half_way_and_repeated_ends_with_the_same_numbers(tmp_path):
    words = ["-m", "sa.run", "experiment=digits_ste", "steps=600", "tracker=none", "figure=[]"]
    whole = python(*words, cwd=tmp_path / "..", env=os.environ | {"SA_ROOT": str(tmp_path / "a")})
    assert whole.returncode == 0, whole.stderr
    env = os.environ | {"SA_ROOT": str(tmp_path / "b")}
    killed(words[2:], env, at=300, saved=250)
    kept = next((tmp_path / "b" / "runs").iterdir())
    assert not (kept / "result.json").exists() and record.state(kept) == "lost"
    again = python(*words, env=env)
    assert again.returncode == 0, again.stderr
    assert "going on from step 250 of 600" in again.stdout
    other = tmp_path / "a" / "runs" / kept.name
    mine, theirs = (json.loads((p / "result.json").read_text()) for p in (kept, other))
    mine.pop("seconds"), theirs.pop("seconds")
    assert mine == theirs
    assert (kept / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    import torch

    mine, theirs = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (kept, other))
    for name, value in mine["params"].items():
        assert torch.equal(value, theirs["params"][name])


def test_a_killed_probe_goes_on_in_the_middle_of_its_differences(tmp_path):
    words = ["-m", "sa.run", "model=cnn", "dataset=digits", "estimator=cdg", "analysis=[]"]
    words += ["model.channels=[4,8]", "tracker=none"]  # batch statistics: by brute force
    calm = python(*words, env=os.environ | {"SA_ROOT": str(tmp_path / "a")})
    assert calm.returncode == 0, calm.stderr
    env = os.environ | {"SA_ROOT": str(tmp_path / "b")}
    killed(words[2:], env, file="partial.pt")
    kept = next((tmp_path / "b" / "runs").iterdir())
    assert (kept / "partial.pt").exists() and not (kept / "result.json").exists()
    again = python(*words, env=env)
    assert again.returncode == 0, again.stderr
    results = [json.loads((tmp_path / k / "runs" / kept.name / "result.json").read_text())
               for k in "ab"]  # fmt: skip
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert not (kept / "partial.pt").exists()


def test_what_is_kept_of_a_later_step_waits_for_it(tmp_path):
    class Kept:
        folder = tmp_path

        def save(self, write, name):
            write(tmp_path / name)

    first = execute._Partial(Kept(), 0, 3)
    number, before = first.take()
    assert before == {}
    first.keep(number, {"done": 7})
    again = execute._Partial(Kept(), 1e9, 2)  # the checkpoint is of the step before
    assert again.take() == (0, {})
    again.begin(3)
    assert again.take() == (0, {"done": 7}) and again.take() == (1, {})
    again.begin(4)
    assert again.take() == (0, {}) and not (tmp_path / "partial.pt").exists()


def test_digits_ste_reaches_ninety_percent(tmp_path):
    done = python("-m", "sa.run", "experiment=digits_ste", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / folder(done.stdout)
    assert json.loads((kept / "result.json").read_text())["test/accuracy"] >= 0.9
    assert (kept / "figures" / "curves.png").stat().st_size > 10_000
    assert list(kept.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path):
    made = python(
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert python("-m", "venv", str(tmp_path / "venv")).returncode == 0
    inside = tmp_path / "venv" / "bin" / "python"
    # the heavy dependencies come from here by path; the editable install does not
    import numpy

    site = Path(numpy.__file__).parents[1]
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{site}\n")
    subprocess.run([inside, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)

    def typed(*words):
        return subprocess.run(
            words, capture_output=True, text=True, cwd=tmp_path, timeout=120,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip

    told = typed(inside, "-c", "from sa.config.catalogue import CONF; print(CONF)")
    assert Path(told.stdout.strip()) == packages / "sa" / "conf"
    assert "estimator=" in typed(tmp_path / "venv" / "bin" / "sa", "--help").stdout
    done = typed(tmp_path / "venv" / "bin" / "sa", "-m", *SMALL, "seed=0,1", "analysis=[]")
    assert done.returncode == 0, done.stderr
    assert "sweep: " in done.stdout and (tmp_path / "runs").exists()


def test_the_mirror_holds_the_run(sa):
    from test_tracker import offline, read

    words = ["experiment=digits_ste", "steps=30", "evaluate_every=10", "figure=[]"]
    code, out, err = sa(*words)
    assert code == 0 and not err, err
    (file,) = offline(folder(out))
    head, config, rows, summary = read(file)
    assert head.run_id == folder(out).name and head.job_type == "train"
    assert head.run_group == "digits_ste"
    assert {"ste", "none/sign", "digits", "mlp", "digits_ste"} <= set(head.tags)
    assert rows == record.read_rows(folder(out)) and len(rows) == 31
    assert config["steps"] == 30 and config["meta"]["seed"] == 0
    assert summary["test/accuracy"] == result(out)["test/accuracy"]


def test_the_readme_code_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    space: dict = {}
    exec(code, space)
    assert space["got"].evals == 1001 and space["got"].grad["w"].shape == (8,)


def test_the_notebooks_read_what_a_sweep_wrote(sa, monkeypatch):
    code, _, err = sa("-m", *SMALL, "estimator=cdg,nes_orthogonal", "sweep.name=descent_dims")
    assert code == 0, err
    monkeypatch.setenv("SA_ROOT", ".")
    for page in (ROOT / "notebooks").glob("*.ipynb"):
        space: dict = {}
        for cell in json.loads(page.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), space)
        assert len(space["best"].mean()) == 2
