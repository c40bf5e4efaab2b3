"""One run from the command line: what it computes, records and prints."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import SMALL, folder, result

from sa.record import run as record

FLOAT = [
    "dataset=digits", "model=fc_tanh", "model.shape=[1,8,8]", "model.hidden=[8]", "quantizer=fp",
    "criterion=mse", "tracker=none", "optimizer.lr=0.3",
]  # fmt: skip


def test_a_spectral_training_records_blocks_and_curvature(sa):
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
        (["estimator.refresh=50"], "refresh=50: the training has 12 steps; set refresh <= 12"),
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
def test_spectral_refuses_settings_that_it_cannot_use_before_any_work(sa, words, why):
    code, out, err = sa(*FLOAT, "estimator=spectral", "steps=12", "estimator.refresh=5", *words)
    assert code and why in err and "Traceback" not in err


def test_a_quantizer_that_the_model_ignores_is_noted(sa):
    why = "FC is in full precision and ignores the quantizer; models of quantized layers: toy_mlp"
    code, _, err = sa(*FLOAT, "analysis=[]", "quantizer=bwba")
    assert code == 0 and err.count(f"note: {why}") == 1
    assert why not in sa(*FLOAT, "analysis=[]", "quantizer=fp")[2]
    plan = ["-m", *FLOAT, "analysis=[]", "sweep.dry_run=true"]
    code, _, err = sa(*plan, "quantizer=fp,bwba,fwba")
    assert code == 0 and err.count("note: ") == 1 and f"note: 2 of 3 points: {why}" in err
    assert f"note: 2 of 2 points: {why}" in sa(*plan, "quantizer=bwba", "seed=0,1")[2]
    assert f"note: {why}" in sa(*plan[1:], "quantizer=bwba")[2]


def test_analyses_use_the_learning_rate_of_their_own_step(sa):
    words = [*FLOAT, "steps=4", "schedule=cosine", "analysis=[gradient_norm]", "analyse_every=1"]
    code, out, err = sa(*words)
    assert code == 0, err
    rows = record.read_rows(folder(out))[:4]
    assert len({r["lr"] for r in rows}) == 4
    for row in rows:
        assert row["gradient_norm/edge"] == pytest.approx(2 / row["lr"])


def test_input_sensitivity_of_probabilities_is_measured_under_mse_too(sa):
    code, out, err = sa(*FLOAT, "analysis=[input_sensitivity]")
    assert code == 0 and "input_sensitivity/test/probabilities/mean" in result(out), err


def test_a_snapshot_of_replicas_names_the_same_redundant_parameters_as_one_run(sa):
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


def test_replicas_report_what_is_quantized_and_a_base_estimator_is_shown_by_name(sa):
    words = ["dataset=digits", "model=mlp", "model.hidden=[8]", "analysis=[]", "tracker=none"]
    words += ["steps=6", "batch_size=64", "evaluate_every=null"]
    alone, many = (sa(*words, *more)[1] for more in (["estimator=ste"], ["replicas=2"]))
    assert result(many)["quantized"] == result(alone)["quantized"] == "act1.activation: Sign()"
    code, out, err = sa(
        *words[:-2], "estimator=spectral_ste", "estimator.refresh=5", "batch_size=null"
    )
    assert code == 0 and "base=ste " in out and "_target_" not in out, err


def test_a_spectral_scale_beyond_the_gap_is_noted_and_a_rate_of_zero_is_allowed(sa):
    words = [*FLOAT, "estimator=spectral", "steps=6", "estimator.refresh=5", "schedule=cosine"]
    code, out, err = sa(*words, "analysis=[]", "estimator.scale=1e6")
    assert code == 0, err
    assert re.search(
        r"note: estimator: no gap for scale 1e\+06: the headroom is [\d.]+; a larger", err
    )


def test_curvature_of_a_quantized_network_is_refused_with_the_alternatives(sa):
    code, out, err = sa(*SMALL, "analysis=[curvature]")
    assert code and "analysis.curvature: 'fc1" in err.replace("act1", "fc1")
    assert all(x in err for x in ("smoothing", "spectral_ste", "quantizer=fp"))


def test_a_probe_records_the_documented_results_and_prints_a_summary(sa):
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


def test_the_cost_of_bits_is_recorded_and_summarised(sa):
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


def test_cdg_has_cosine_and_scale_one_to_itself(sa):
    got = result(sa(*SMALL, "estimator=cdg")[1])
    assert got["alignment/cosine"] == pytest.approx(1.0, abs=1e-12)
    assert got["alignment/scale"] == pytest.approx(1.0, abs=1e-12)
    assert got["descent/ratio"] == pytest.approx(1.0) and got["path"] == "fast"


def test_epochs_are_converted_to_steps_and_a_goal_may_end_the_training_sooner(sa):
    words = ["experiment=digits_ste", "tracker=none", "figure=[]", "evaluate_every=10"]
    code, out, err = sa(*words, "steps=0", "epochs=2")
    assert code == 0, err
    assert result(out)["step"] == 2 * (1437 // 64) == 44 and result(out)["stopped"] == "steps"
    assert folder(sa(*words, "steps=44")[1]) == folder(out)  # the same run
    code, out, err = sa(*words, "until={test/accuracy:0.3}", "average=swa", "average.start=0")
    assert code == 0 and "stopped" in out and "swa/test" in out, err
    got = result(out)
    assert got["stopped"] == "test/accuracy >= 0.3" and got["step"] in (10, 20, 30)


def test_replicas_equal_single_runs_of_their_seeds(sa):
    words = [*SMALL, "analysis=[]", "steps=20", "batch_size=16"]
    code, out, err = sa(*words, "replicas=3", "seed=4")
    assert code == 0, err
    got = result(out)
    alone = [result(sa(*words, f"seed={s}")[1]) for s in (4, 5, 6)]
    assert got["test/loss/each"] == pytest.approx([r["test/loss"] for r in alone], rel=1e-9)
    assert got["parameters"] == 3 * alone[0]["parameters"]


def test_an_analysis_does_not_change_the_run(sa):
    with_it = result(sa(*SMALL, "estimator=nes", "estimator.samples=5")[1])
    without = result(sa(*SMALL, "estimator=nes", "estimator.samples=5", "analysis=[]")[1])
    assert with_it["grad_norm"] == without["grad_norm"]


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


def test_fast_cdg_of_one_convolution_of_a_pretrained_network_runs_or_explains_its_refusal(sa):
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
    (parent,) = Path("runs").glob("*/checkpoint.pt")  # a probe has no checkpoint
    before = yaml.safe_load((parent.parent / "config.yaml").read_text())
    assert (before["moving"], before["batchnorm"]) == ("all", "batch")
    saved = torch.load(parent)
    saved["params"] = {k: v[:1] for k, v in saved["params"].items()}  # of another model
    torch.save(saved, parent)
    code, out, err = sa(*words, "estimator.epsilon=0.2")
    assert code == 1 and str(parent) in err and "another network" in err


def test_reinforce_on_random_units_has_no_measurable_bias_to_the_expected_loss(sa):
    words = [*SMALL, "estimator=reinforce", "quantizer=sba", "analysis=[bias_variance_stochastic]"]
    code, out, err = sa(*words)
    assert code == 0 and "replicates" in out, err
    got = result(out)
    assert got["bias_variance/across"] == 0
    assert abs(got["bias_variance/bias2"]) < 0.1 * got["bias_variance/variance"]


def test_a_formula_can_be_probed_and_minimised(sa):
    words = ["model=quadratic", "dataset=point", "estimator=cdg", "tracker=none"]
    got = result(sa(*words)[1])
    assert got["parameters"] == 8 and got["alignment/cosine"] == pytest.approx(1)
    got = result(sa(*words, "steps=50", "optimizer.lr=1", "optimizer.momentum=0")[1])
    assert got["value"] == got["train/loss"] == got["test/loss"] > 0
    assert got["value"] < 0.3 * result(sa(*words)[1])["value"]


def test_analyses_during_a_training_are_recorded_and_summarised(sa):
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
