"""Tests that the theorem of each option in the catalogue matches the option's settings."""

import math
import re

import pytest
import torch
import yaml
from conftest import CONF, component, options

from sa.config.catalogue import estimators
from sa.estimator import _slopes
from sa.estimator.ste import STE

CATALOGUE = estimators()
SLOPES = [n for n in options("estimator") if isinstance(component("estimator", n), STE)]
NES = [n for n in options("estimator") if n.startswith("nes")]


def test_no_two_options_of_one_class_have_the_same_theorem():
    seen = {}
    for name in options("estimator"):
        target = yaml.safe_load((CONF / "estimator" / f"{name}.yaml").read_text())["_target_"]
        key = target, CATALOGUE[name].theorem
        assert key not in seen, f"{name} has the theorem of {seen[key]}"
        seen[key] = name


def spoken(formula, a, progress):
    """Return the value at a of a slope's formula as the catalogue prints it."""
    text = formula.split("m(a) = ")[1].removesuffix(", p the share of the training done")
    text = text.removesuffix(", F logistic").replace("|a|", "abs(a)").replace("^", "**")
    text = re.sub(r"1\[(.+?)\]", r"float(\1)", text)
    known = {k: getattr(math, k) for k in ("tanh", "cosh", "log", "pi")} | {"max": max}
    known |= {"a": a, "p": progress, "F": lambda x: 1 / (1 + math.exp(-x))}
    first, *given = re.split(r", (?=\w = )", text)
    for one in given:
        letter, value = one.split(" = ")
        known[letter] = eval(value, known)
    for piece, where in re.findall(r"(\S[^,]*?) for ([^,]+), ", first):  # ReSTE has three pieces
        other = first.rpartition(", ")[2].removesuffix(" below")
        if eval(where, known):
            return eval(piece, known)
        return eval(other, known) if abs(a) <= 0.1 else 0.0
    return eval(first, known)


@pytest.mark.parametrize("name", SLOPES)
def test_the_slope_printed_in_the_catalogue_is_the_slope_that_is_used(name):
    made = component("estimator", name)
    rule = _slopes.rule(made.surrogate, made.scale, 0.3)
    for a in (-2.0, -1.0, -0.7, -0.4, -0.05, 0.0, 0.05, 0.4, 0.5, 0.7, 1.0, 1.2, 2.0):
        got = float(rule(torch.tensor(a, dtype=torch.float64)))
        assert got == pytest.approx(spoken(CATALOGUE[name].theorem, a, 0.3), rel=1e-9), a


@pytest.mark.parametrize("name", NES)
def test_the_formula_of_nes_matches_its_settings(name):
    made, theorem = component("estimator", name), CATALOGUE[name].theorem
    assert ("f(w - sigma e_n)" in theorem) == made.antithetic
    assert ("|e| = sqrt(D)" in theorem) == made.orthogonal
    assert ("e ~ N(0, I)" in theorem) == (made.target == "gaussian")
    assert ("the rank" in theorem) == (made.shaping == "ranks")
    assert ("mean f" in theorem and "N - 1" in theorem) == (made.baseline == "mean")
    assert ("gap" in theorem) == (made.sigma == "auto")


def test_the_backward_printed_in_the_catalogue_is_the_backward_that_is_used():
    for name in ("sr_ste", "sr_ste_relaxed", "gumbel", "st_gumbel"):
        made, theorem = component("estimator", name), CATALOGUE[name].theorem
        relaxed = getattr(made, "backward", "relaxed") == "relaxed"
        assert ("/temperature" in theorem) == relaxed and ("m(A)" in theorem) != relaxed
        hard = getattr(made, "hard", True)
        assert ("sign(phi + logit u) forward" in theorem) == hard


def test_the_theorems_of_best_of_state_the_set_that_is_searched():
    assert "uniform on the sphere" in CATALOGUE["best_of"].theorem
    assert "along v" in CATALOGUE["best_of_ste"].theorem
    assert "in the span" in CATALOGUE["best_of_span"].theorem
