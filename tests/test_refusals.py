"""Invalid commands are refused with a clear error before any work, and write no file."""

from pathlib import Path

import pytest
import torch
from commands import SMALL, folder

from sa.record import run as record

REFUSED = [
    (["ends=5", "analysis=[]"], ["expected two trainings, there are 1: 5"]),
    (["until={train/loss:a}", "steps=3"], ["until={train/loss:a}: expected"]),
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
    (
        ["-m", "dataset=digits,cifar10_1k", "model=resnet32", "model.shape=[3,32,32]"],
        ["point 0", "model.shape=[1,8,8]"],
    ),
    (["model=rosenbrock"], ["the model is a loss itself", "dataset=point"]),
    (["model=rosenbrock", "dataset=point", "criterion=mse"], ["criterion: mse", "criterion=auto"]),
    (
        ["model=mlp", "dataset=digits", "criterion=value"],
        ["criterion: value works only for models", "criterion=auto"],
    ),
    (["model=mlp_relu", "dataset=digits"], ["the model takes", "(1,)", "(1, 8, 8)"]),
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
    (["dataset=digits"], ["the model takes", "(8,)", "the dataset has", "(1, 8, 8)"]),
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
        ["replicas: stored works with one network; set stored=null"],
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
    (
        ["-m", "seed=0,1", "sweep.exclude=['sede=0']"],
        ["sweep.exclude", "sede is not swept; swept are: seed"],
    ),
    (["estimator=ste", "estimator.temperature=0.5"], ["a temperature does not change hard states"]),
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
def test_an_invalid_command_is_refused_before_any_work(sa, words, told):
    code, out, err = sa(*words)
    assert code == 2, (out, err)
    for word in told:
        assert word in err
    assert "Traceback" not in err and len(err.splitlines()) < 12
    assert not Path("runs").exists() and not Path("sweeps").exists()


def test_a_root_that_cannot_be_written_is_refused(sa):
    Path("file").write_text("")
    code, _, err = sa(*SMALL, "root=file/below")
    assert code == 2 and "root=file/below" in err and "SA_ROOT" in err


def test_a_damaged_checkpoint_is_reported_and_no_file_is_changed(sa):
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


def test_a_corrupt_row_is_reported_by_line_number(sa):
    words = ["experiment=digits_ste", "steps=20", "tracker=none", "figure=[]"]
    kept = folder(sa(*words)[1])
    (kept / "result.json").unlink()
    lines = (kept / "metrics.jsonl").read_text().splitlines()
    lines[3] = lines[3][:7]
    (kept / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    code, _, err = sa(*words)
    assert code == 1 and "metrics.jsonl, line 4" in err and "Delete that line" in err


def test_a_full_disk_fails_the_run_which_then_resumes_from_its_last_checkpoint(sa, monkeypatch):

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
    assert saved["step"] == 4  # the fifth checkpoint, which is complete
    monkeypatch.setattr(torch, "save", sound)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step 4" in out
