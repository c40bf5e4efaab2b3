"""Tests that every analysis works at points of any shape, memory layout and dtype."""

import pytest
import torch
from conftest import ROOMS, plain

from sa.analysis.alignment import Alignment
from sa.analysis.bias_variance import BiasVariance
from sa.analysis.blocks import Blocks
from sa.analysis.critical_points import CriticalPoints
from sa.analysis.curvature import Curvature
from sa.analysis.descent import Descent
from sa.analysis.efficiency import Efficiency
from sa.analysis.eigenvectors import Eigenvectors
from sa.analysis.gradient_norm import GradientNorm
from sa.analysis.quant_error import QuantError
from sa.analysis.sensitivity_bits import SensitivityBits
from sa.analysis.sharpness import Sharpness
from sa.analysis.sketch import Sketch
from sa.analysis.smoothing import Smoothing
from sa.analysis.surface import Surface
from sa.analysis.training import Training
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.network.hooks import called
from sa.objective.function import from_function
from sa.quantizer.uniform import Uniform
from sa.types import Estimate, Moment

MINE = NES(samples=4)
ANALYSES = {
    "alignment": Alignment({"cdg": CDG(), "again": CDG(epsilon=0.01)}),
    "bias_variance": BiasVariance(MINE, CDG(), replicates=4),
    "blocks": Blocks(blocks="tensor", k=1),
    "critical_points": CriticalPoints(steps=5),
    "curvature": Curvature(k=1),
    "descent": Descent(reference=CDG(), points=5, nulls=2),
    "efficiency": Efficiency(MINE, CDG(), evals=40, most=4),
    "top_space": Eigenvectors(blocks="tensor", k=1),
    "gradient_norm": GradientNorm(MINE, lr=0.1),
    "quant_error": QuantError(Uniform(4)),
    "sensitivity_bits": SensitivityBits(Uniform(4), bits=(2, 4), probes=1),
    "sharpness": Sharpness(rounds=2, starts=1),
    "smoothed_sharpness": Sharpness(view="smoothed", draws=4),
    "sketch": Sketch(m=5),
    "smoothing": Smoothing(MINE, epsilons=(0.1,), sigmas=(0.1,), points=5, draws=4),
    "surface": Surface(points=3),
    "eigenvectors": Surface(axes="eigenvectors", points=3),
    "training": Training(MINE, evals=40, points=3),
}


def bowl(p):
    return sum(((q - 0.3) ** 2).sum() + q.sum() for q in p.values())


def probe(analysis, point):
    f = from_function(bowl, vectorized=True)
    estimate = MINE(f, point, {}, torch.Generator().manual_seed(0))
    return analysis(f, point, estimate, torch.Generator().manual_seed(1))


# these points have too few parameters for the analysis, and the error says so
TOO_FEW = {
    ("a number", "surface"), ("a number", "eigenvectors"),
    ("float32 number", "surface"), ("float32 number", "eigenvectors"),
}  # fmt: skip
NOTHING = set(ANALYSES) - {
    "alignment", "descent", "efficiency", "quant_error", "sketch", "smoothing", "training"
}  # fmt: skip


@pytest.fixture(autouse=True)
def every_warning():
    """Make torch repeat warnings that it gives only once, so that every test fails on them."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_takes_a_point_of_any_shape_and_layout(name, room):
    point = ROOMS[room]
    before, versions = plain(point), [p._version for p in point.values()]
    if (room, name) in TOO_FEW or (room == "empty" and name in NOTHING):
        with pytest.raises(ValueError, match="parameters|no numbers"):
            probe(ANALYSES[name], point)
        return
    got, wanted = (probe(ANALYSES[name], p) for p in (point, before))
    assert got.keys() == wanted.keys()
    for k, value in wanted.items():
        if not ("seconds" in k or isinstance(value, str)):
            assert got[k] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), k
    assert [p._version for p in point.values()] == versions
    assert all(torch.equal(p, before[k]) for k, p in point.items())


class Recorded:
    """An estimator of the true gradient that records the moments at which it is called."""

    target = "true"

    def __init__(self):
        self.moments = []

    def init(self, params):
        return {}

    def __call__(self, objective, params, state, generator, at):
        self.moments.append(at)
        return Estimate(*objective.value_and_grad(params), 3.0)


AT = Moment(3, 10, 0.1)
CALLING = {
    "alignment": lambda e: Alignment({"one": e}),
    "bias_variance": lambda e: BiasVariance(e, e, replicates=4),
    "descent": lambda e: Descent(reference=e, points=5, nulls=1),
    "efficiency": lambda e: Efficiency(e, e, evals=10, most=3),
    "gradient_norm": lambda e: GradientNorm(e, lr=0.1),
    "training": lambda e: Training(e, evals=10, points=2),
}


@pytest.mark.parametrize("name", CALLING)
def test_analyses_pass_the_moment_to_the_estimators_they_call(name):
    mine = Recorded()
    f, point = from_function(bowl), {"w": torch.arange(3.0, dtype=torch.float64)}
    estimate = mine(f, point, {}, torch.Generator(), AT)
    mine.moments.clear()
    CALLING[name](mine)(f, point, estimate, torch.Generator().manual_seed(1), AT)
    # a short training passes its own moments from its second step on
    first = 1 if name == "training" else len(mine.moments)
    assert mine.moments and mine.moments[:first] == [AT] * first
    own = [Moment(i, at.steps, at.lr) for i, at in enumerate(mine.moments[1:3])]
    assert name != "training" or mine.moments[1:3] == own


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_prints_lines_about_what_it_measured_and_no_others(name):
    analysis, point = ANALYSES[name], ROOMS["two"]
    got = probe(analysis, point)
    common = {"value": 1.0, "parameters": 3, "target": "gaussian", "cosine_expected": 0.5}
    assert called(analysis, "tell", {}) == called(analysis, "tell", common) == []
    for label, words in called(analysis, "tell", common | got):
        assert label and words and "nan" not in words.split(), (label, words)
