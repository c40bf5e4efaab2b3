"""Every estimator runs with every analysis that a dry run accepts for it."""

import math
from functools import cache, partial
from typing import Any

import pytest
import torch
from conftest import CONF, options
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sa.config.fit import check_analysis
from sa.dataset.gaussian import Gaussian
from sa.model.toy_mlp import ToyMLP
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.quantizer.bernoulli import Bernoulli
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.training import loop
from sa.types import Slots

SMALL: dict[str, dict[str, Any]] = {
    "bias_variance": {"replicates": 4},
    "efficiency": {"evals": 10, "seconds": 1e-6, "most": 2},
    "training": {"points": 2, "steps": 2},
    "smoothing": {"epsilons": [0.1], "sigmas": [0.1], "points": 3, "draws": 2},
    "sharpness": {"rounds": 1, "starts": 1, "draws": 2},
    "critical_points": {"steps": 2},
    "surface": {"points": 3, "draws": 2},
    "function_curve": {"points": 5},
    "sensitivity_bits": {"bits": [2, 4], "probes": 1},
    "curvature": {"k": 2},
    "descent": {"points": 4, "extend": 0, "nulls": 1},
    "alignment": {},
}
"""Settings that make an analysis short, by its name."""

NETWORKS = {
    "smooth": Slots(Identity(), Identity()),
    "signs": Slots(Identity(), Sign()),
    "random": Slots(Identity(), Bernoulli()),
}
LR = 0.05

DATA = Gaussian(dim=2, n=6)


def node(group, name, **known):
    """Return a component's YAML with short settings and its interpolations filled in."""
    made = OmegaConf.load(CONF / group / f"{name}.yaml")
    root = OmegaConf.create({"dim": 2, "optimizer": {"lr": LR}, **known, "it": made})
    said = OmegaConf.to_container(root, resolve=True)["it"]
    if group == "analysis":
        ((key, said),) = said.items()
        said |= SMALL.get(key, {})
        if name == "bias_variance_stochastic":
            said["reference"] |= {"samples": 2}
    for key in ("samples", "generations"):
        if isinstance(said.get(key), int):
            said[key] = min(said[key], 16 if key == "samples" else 3)
    return said


@cache
def problem(network):
    model = ToyMLP(quantizer=NETWORKS[network], dim=2, gain=math.sqrt(3))
    return prepare(Task(model=model, dataset=DATA), 0)


def takes(ask, *what):
    """Return whether a dry run would accept the component."""
    try:
        ask(*what)
    except ValueError:
        return False
    return True


def estimates(estimator, p):
    """Return whether an estimator accepts a problem."""
    asked = [(x, y) for x, y in (("requires", p.structure), ("fits", p.params))]
    return all(takes(getattr(estimator, x), y) for x, y in asked if hasattr(estimator, x))


def analyses_of(said, p):
    """Return the analyses that accept a problem, with the estimator of this YAML."""
    made = {}
    for key in options("analysis"):
        if key == "bias_variance_gaussian" and not isinstance(said.get("sigma"), float):
            continue  # it interpolates the estimator's sigma
        one = instantiate(node("analysis", key, estimator=said), _convert_="all")
        alone = not (getattr(one, "between", False) or getattr(one, "follows", False))
        data = takes(getattr(one, "takes", lambda _: None), DATA)
        if alone and data and takes(check_analysis, one, p.structure, p.params, 1 << 27):
            made[key] = one
    return made


SCHEDULED = ("spectral", "spectral_ste", "flow", "ste_ede", "fogzo")
"""Estimators that use the moment of a training; they are tried in a probe as well."""

CASES = [(name, 1) for name in options("estimator")] + [(name, 0) for name in SCHEDULED]


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_every_estimator_runs_with_every_analysis_that_accepts_it(name, steps):
    said = node("estimator", name)
    if "n_filter" in said:
        said |= {"n_filter": 2, "refresh": 2}
    estimator = instantiate(said, _convert_="all")
    ran = 0
    for network in NETWORKS:
        p = problem(network)
        if not estimates(estimator, p):
            continue
        analyses = analyses_of(said, p)
        start = loop.Progress(0, p.params, p.buffers, {}, {})
        sgd = partial(torch.optim.SGD, lr=LR)
        got = list(loop.loop(p, estimator, sgd, analyses, steps=steps, progress=start))
        assert "diverged" not in got[-1][0]
        told = {k.partition("/")[0] for k in got[-1][0] if "/" in k}
        assert {"training", "bias_variance", "efficiency", "gradient_norm"} <= told
        ran += 1
    assert ran, "no network here is one that it takes"
