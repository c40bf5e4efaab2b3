"""Tests of `sa.testing`, which checks the laws on classes from outside."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import CONF, component, options
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sa import testing
from sa.surrogate import sign
from sa.testing import estimator, losses
from sa.testing.broken import report
from sa.types import PROBE, Batch, Estimate, Splits


@dataclass(frozen=True)
class Probe:
    """An estimator by two-sided differences along random signs, correct or with one fault."""

    fault: str = ""
    target = "gaussian"

    def init(self, params):
        return {}

    def __call__(self, objective, params, state, generator, at=PROBE):
        draws = None if self.fault == "repeats" else generator
        sign = {
            k: torch.randint(0, 2, p.shape, generator=draws).to(p.dtype) * 2 - 1
            for k, p in params.items()
        }
        up, down = (
            objective.value({k: p + s * 1e-3 * sign[k] for k, p in params.items()}) for s in (1, -1)
        )
        factor = 2 if self.fault == "unbiased" else 1
        value = objective.value(params)
        slope = (up - down) / 2e-3 + (value if self.fault == "constant" else 0)
        if self.fault == "scale":
            slope = slope / abs(slope)
        if self.fault == "untouched":
            next(iter(params.values())).add_(1)
        grad = {k: (factor * slope * s).to(params[k].dtype) for k, s in sign.items()}
        if self.fault == "finite":
            grad = {k: g / 0 for k, g in grad.items()}
        if self.fault == "shapes":
            grad = {k: g.double().flatten() for k, g in grad.items()}
        return Estimate(value, grad, 1.0 if self.fault == "evals" else 3.0)


def test_a_correct_estimator_from_outside_passes_every_law():
    assert testing.check_estimator(Probe) == {}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("scale", "3 times the loss has 1 times the gradient"),
        ("unbiased", "along that gradient its length is"),
        ("evals", "it reports 1 evals and spends 3"),
        ("repeats", "draws from torch's global generator"),
        ("constant", "changes the gradient by"),
        ("untouched", "changes 'm' of the point in place"),
        ("shapes", "expected (2, 2)"),
    ],
)
def test_each_fault_is_reported_under_its_law(fault, why):
    broken = testing.check_estimator(lambda: Probe(fault))
    assert why in broken[fault]


def test_a_gradient_that_is_not_finite_breaks_the_law_of_shapes():
    assert "'m' is not finite" in testing.check_estimator(lambda: Probe("finite"))["shapes"]


@dataclass(frozen=True)
class Swapped(Probe):
    """An estimator whose Estimate has value and gradient in the wrong order."""

    def __call__(self, objective, params, state, generator, at=PROBE):
        got = super().__call__(objective, params, state, generator, at)
        return Estimate(got.grad, got.value, got.evals)


def test_a_result_that_is_no_estimate_is_named():
    why = "it returned an Estimate whose grad is a Tensor; expected Estimate(value"
    assert testing.check_estimator(Swapped)["shapes"].startswith(why)


def test_an_unknown_target_is_reported():
    class Lost(Probe):
        target = "loss"

    assert "target='loss': expected one of true, box" in testing.check_estimator(Lost)["target"]


def test_a_law_that_a_class_breaks_on_purpose_is_excused_with_its_reason():
    class Long(Probe):
        laws = {"unbiased": "it is a displacement"}

    assert testing.check_estimator(lambda: Long("unbiased")) == {}
    lines = list(report(estimator.LAWS, {}, Long.laws))
    assert "excused  unbiased: it is a displacement" in lines


def test_an_excuse_that_is_not_needed_or_names_no_law_is_reported():
    class Idle(Probe):
        laws = {"unbiased": "it is a displacement", "length": "it is long"}

    broken = testing.check_estimator(Idle)
    assert "it is excused (it is a displacement), but holds" in broken["unbiased"]
    assert "there is no such law to excuse; there are: target, " in broken["length"]
    lines = list(report(estimator.LAWS, broken, Idle.laws))
    assert "BROKEN   length: there is no such law to excuse" in " ".join(lines)


def test_the_loss_of_the_laws_is_one_that_the_estimator_accepts():
    assert list(losses.case(component("estimator", "ste")).point) == ["m", "v"]
    assert not losses.case(component("estimator", "local_nes")).objective(1, 0).structure.quantized
    assert len(losses.case(component("estimator", "discrete_gradient")).point) == 4  # two layers

    class Choosy(Probe):
        def requires(self, structure):
            raise ValueError("it needs a convolution")

    broken = testing.check_estimator(Choosy)
    assert "accepts no small loss" in broken["evals"] and "a convolution" in broken["evals"]


def members(*groups, without=()):
    return [(g, n) for g in groups for n in options(g) if n not in without]


@pytest.mark.parametrize(("group", "name"), members("quantizer/weight", "quantizer/activation"))
def test_the_projects_own_quantizers_keep_the_laws(group, name):
    assert testing.check_quantizer(lambda: component(group, name)) == {}


LARGE = ("vgg11", "vgg11_bn", "vgg13", "vgg16", "xnor_resnet18", "cnn_deep")
LARGE += ("resnet20", "resnet32", "resnet44", "resnet56")


@pytest.mark.parametrize("name", [n for _, n in members("model", without=LARGE)])
def test_the_projects_own_models_keep_the_laws(name):
    assert testing.check_model(lambda: component("model", name)) == {}


# for random units, for one input, for two trainings, and with a budget of seconds
SPECIAL = ("bias_variance_stochastic", "function_curve", "interpolation", "efficiency")
SLOW = ("critical_points", "sensitivity_bits", "training")


@pytest.mark.parametrize("name", [n for _, n in members("analysis", without=SPECIAL + SLOW)])
def test_the_projects_own_analyses_keep_the_laws(name):
    node = OmegaConf.load(CONF / "analysis" / f"{name}.yaml")
    estimator = OmegaConf.load(CONF / "estimator" / "nes.yaml")
    estimator.samples = 20
    root = OmegaConf.create({"estimator": estimator, "optimizer": {"lr": 0.1}, "it": node})
    (made,) = OmegaConf.to_container(root, resolve=True)["it"].values()
    assert testing.check_analysis(lambda: instantiate(made, _convert_="all")) == {}


FILES = [n for n in options("dataset") if n.startswith(("cifar10", "fashion_mnist"))]
FILES += ["arrays", "idx", "images", "table", "torchvision", "huggingface"]


@pytest.mark.parametrize("name", [n for _, n in members("dataset", without=FILES)])
def test_the_projects_own_datasets_keep_the_laws(name):
    small = {"n": 60} if name == "gaussian" else {}
    assert testing.check_dataset(lambda: component("dataset", name, **small)) == {}


def test_the_command_reports_each_law_and_fails_for_a_wrong_class(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from sa.estimator.nes import NES\n"
        "class Long(NES):\n"
        "    def estimate(self, *args):\n"
        "        got = super().estimate(*args)\n"
        "        for g in got.grad.values():\n"
        "            g.mul_(2)\n"
        "        return got\n"
    )

    def typed(word):
        command = [sys.executable, "-m", "sa.run", "check", word]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    broken = typed("mine:Long")
    assert broken.returncode == 1 and "BROKEN   unbiased" in broken.stdout
    assert (
        "along that gradient its length is 2" in broken.stdout and "holds    evals" in broken.stdout
    )
    assert typed("sa.estimator.cdg:CDG").returncode == 0
    absent = typed("mine:Short")
    assert absent.returncode == 2 and "there is no such class" in absent.stderr


def wrong_quantizer(fault):
    def q(x):
        if fault == "shapes":
            return sign(x).double().flatten()
        if fault == "repeats":
            return sign(x + torch.randn_like(x))
        if fault == "rules":
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype) + 0 * x
        if fault == "finite":
            return sign(x) * x / x.abs()
        return x * 1.0

    return q


@pytest.mark.parametrize("fault", ["shapes", "repeats", "rules", "finite", "levels"])
def test_each_fault_of_a_quantizer_is_named_by_its_law(fault):
    assert fault in testing.check_quantizer(lambda: wrong_quantizer(fault))
    assert testing.check_quantizer(lambda: sign) == {}


@dataclass(frozen=True)
class Net:
    fault: str = ""
    shape = (3,)
    outputs = 2

    def build(self, generator):
        made = torch.nn.Linear(3, 3 if self.fault == "outputs" else 2)
        for p in made.parameters():
            drawn = torch.randn(p.shape, generator=None if self.fault == "repeats" else generator)
            p.data = drawn
        extra = [torch.nn.BatchNorm1d(2)] if self.fault == "stacks" else []
        if self.fault == "independent":
            made = Centred(made)
        if self.fault == "trains":
            extra = [Plain()]
        return torch.nn.Sequential(made, *extra)


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.idle = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x


class Centred(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        out = self.inner(x)
        return out - out.mean(0)


@pytest.mark.parametrize("fault", ["outputs", "repeats", "independent", "trains"])
def test_each_fault_of_a_model_is_named_by_its_law(fault):
    assert fault in testing.check_model(lambda: Net(fault))
    assert testing.check_model(Net) == {}


@dataclass(frozen=True)
class Rows:
    fault: str = ""
    shape = (3,)
    classes = 2
    rows = 10

    def load(self, generator):
        x = torch.randn(10, 3, generator=None if self.fault == "repeats" else generator).double()
        y = torch.arange(10) % (3 if self.fault == "targets" else 2)
        x = x[:, :2] if self.fault == "shapes" else x
        x = x / 0 if self.fault == "finite" else x
        return Splits(Batch(x, y), Batch(x.clone(), y.clone()))


@pytest.mark.parametrize("fault", ["repeats", "targets", "shapes", "finite"])
def test_each_fault_of_a_dataset_is_named_by_its_law(fault):
    assert list(testing.check_dataset(lambda: Rows(fault))) == [fault]
    assert testing.check_dataset(Rows) == {}


@dataclass(frozen=True)
class Length:
    fault: str = ""

    def __call__(self, objective, params, estimate, generator, at=PROBE):
        if self.fault == "untouched":
            estimate.grad["first.weight"].mul_(2)
        draws = None if self.fault == "repeats" else generator
        drawn = float(torch.rand((), generator=draws))
        return {"length/drawn": params if self.fault == "numbers" else drawn}


@pytest.mark.parametrize("fault", ["repeats", "untouched", "numbers"])
def test_each_fault_of_an_analysis_is_named_by_its_law(fault):
    assert fault in testing.check_analysis(lambda: Length(fault))
    assert testing.check_analysis(Length) == {}


def test_the_fixture_of_pytest_is_light_and_names_what_fails(keeps_laws):
    keeps_laws(Net)
    keeps_laws(Length, fault="")
    with pytest.raises(AssertionError, match="Rows breaks targets\n(?s:.*)BROKEN   targets"):
        keeps_laws(Rows, fault="targets")
    code = "import sys, sa.testing.plugin, sa.testing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sa.estimator.nes:NES", "sigma=0.05"], 0, "NES, estimator:"),
        (["sa.estimator.best_of:BestOf"], 0, "excused  unbiased: it is a displacement"),
        (["sa.quantizer.xnor:Xnor"], 0, "Xnor, quantizer:"),
        (["sa.model.toy_mlp:ToyMLP"], 0, "ToyMLP, model:"),
        (["sa.dataset.sinc:Sinc"], 0, "Sinc, dataset:"),
        (["sa.estimator.nes:NES", "sgima=1"], 2, "it cannot be made"),
        (["sa.types:Batch"], 2, "it cannot be made"),
        (["sa.types:Moment"], 2, "expected a class of a room"),
        ([], 2, "type sa check MODULE:CLASS"),
    ],
)
def test_sa_check(sa, words, code, said):
    got, out, err = sa("check", *words)
    assert got == code and said in out + err
