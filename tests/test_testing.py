"""Tests of `sa.testing`, which checks the laws on classes from outside."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from sa import testing
from sa.estimator.best_of import BestOf
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.types import PROBE, Estimate


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
        if self.fault == "untouched":
            next(iter(params.values())).add_(1)
        grad = {k: (factor * slope * s).to(params[k].dtype) for k, s in sign.items()}
        if self.fault == "shapes":
            grad = {k: g.double().flatten() for k, g in grad.items()}
        return Estimate(value, grad, 1.0 if self.fault == "evals" else 3.0)


def test_a_correct_estimator_from_outside_passes_every_law():
    assert testing.check_estimator(Probe) == {}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
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


def test_an_unknown_target_is_reported():
    class Lost(Probe):
        target = "loss"

    assert "target='loss': expected one of true, box" in testing.check_estimator(Lost)["target"]


def test_a_law_that_a_class_breaks_on_purpose_is_excused_with_its_reason():
    class Displaced(BestOf):
        laws = {"unbiased": "it is a displacement"}

    assert "unbiased" in testing.check_estimator(BestOf)
    assert "unbiased" not in testing.check_estimator(Displaced)
    lines = list(testing.report({}, Displaced.laws))
    assert "excused  unbiased: it is a displacement" in lines


@pytest.mark.parametrize("estimator", [NES, CDG])
def test_nes_and_cdg_pass_every_law(estimator):
    assert testing.check_estimator(estimator) == {}


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
        command = [sys.executable, "-m", "sa.testing", word]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    broken = typed("mine:Long")
    assert broken.returncode == 1 and "BROKEN   unbiased" in broken.stdout
    assert (
        "along that gradient its length is 2" in broken.stdout and "holds    evals" in broken.stdout
    )
    assert typed("sa.estimator.cdg:CDG").returncode == 0
    absent = typed("mine:Short")
    assert absent.returncode == 2 and "there is no such class" in absent.stderr
