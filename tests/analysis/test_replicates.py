"""Tests of bias, variance, efficiency and short trainings against closed forms."""

import math

import pytest
import torch

from sa.analysis.bias_variance import BiasVariance, split
from sa.analysis.efficiency import Efficiency
from sa.analysis.training import Training
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.estimator.random import Random
from sa.objective.function import from_function
from sa.types import Estimate

DIM = 60


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def slope():
    """Return a linear loss, the point 0 and the known gradient g."""
    g = torch.randn(DIM, generator=gen(), dtype=torch.float64)
    f = from_function(lambda p: 5 + g @ p["w"], vectorized=True)
    return f, {"w": torch.zeros(DIM, dtype=torch.float64)}, g


def measure(analysis, f, point, seed=0):
    got = analysis.estimator(f, point, {}, gen(seed))
    return analysis(f, point, got, gen(seed + 1))


def test_split_recovers_a_known_bias_and_variance():
    g = torch.ones(DIM, dtype=torch.float64)
    bias = torch.zeros(DIM, dtype=torch.float64)
    bias[:6] = 2.0  # |bias|^2 = 24
    got = []
    for seed in range(40):
        noise = torch.randn(16, DIM, generator=gen(seed), dtype=torch.float64)
        got.append(split(g + bias + 0.5 * noise, g))
    means = {k: sum(x[k] for x in got) / len(got) for k in got[0]}
    spread = torch.tensor([x["bias2"] for x in got]).std() / len(got) ** 0.5
    assert means["bias2"] == pytest.approx(24 / DIM, abs=4 * float(spread))
    assert means["variance"] == pytest.approx(0.25, rel=0.03)  # 0.25 D over |g|^2 = D
    assert means["snr"] == pytest.approx((DIM + 24 + 24) / (0.25 * DIM), rel=0.05)
    # without bias every z is about normal
    clean = split(g + 0.5 * torch.randn(400, DIM, generator=gen(), dtype=torch.float64), g)
    assert clean["z_rms"] == pytest.approx(1, abs=4 / math.sqrt(2 * DIM))
    assert abs(clean["bias2"]) < 4 * 0.25 / 400 / math.sqrt(DIM) * 2


def test_reliability_of_the_mean_is_its_cosine_to_the_expected_gradient():
    g, n = torch.randn(2000, generator=gen(), dtype=torch.float64), 8
    draws = g + 3 * torch.randn(n, 2000, generator=gen(1), dtype=torch.float64)
    out = split(draws, g)
    truth = float(torch.nn.functional.cosine_similarity(draws.mean(0), g, dim=0))
    assert out["reliability_mean"] == pytest.approx(truth, abs=0.02)
    assert out["reliability"] == pytest.approx(1 / (1 + 9 / 4), abs=0.06)


def test_nes_is_unbiased_on_a_linear_loss_with_relative_variance_d_plus_1_over_n(slope):
    f, point, g = slope
    analysis = BiasVariance(NES(samples=20), CDG(0.1), replicates=200)
    out = measure(analysis, f, point)
    law = (DIM + 1) / 20
    assert out["bias_variance/variance"] == pytest.approx(law, rel=0.1)
    assert abs(out["bias_variance/bias2"]) < 4 * law / 200 * math.sqrt(2 / DIM)
    assert out["bias_variance/z_rms"] == pytest.approx(1, abs=0.4)
    assert out["bias_variance/scale"] == pytest.approx(
        1, abs=2 * out["bias_variance/scale_ci95"] + 1e-9
    )
    assert out["bias_variance/across"] == 1.0  # gaussian against box
    assert out["bias_variance/evals"] == 41


def test_a_deterministic_estimator_has_no_variance(slope):
    f, point, g = slope
    out = measure(BiasVariance(CDG(0.3), CDG(0.1), replicates=4), f, point)
    assert out["bias_variance/variance"] == pytest.approx(0, abs=1e-20)
    assert out["bias_variance/bias2"] == pytest.approx(0, abs=1e-15)
    assert out["bias_variance/reliability"] == pytest.approx(1)


def test_cosines_of_efficiency_are_the_expected_cosines_for_the_budget(slope):
    f, point, g = slope
    analysis = Efficiency(NES(samples=10), CDG(0.1), evals=21 * 32, seconds=1e-9)
    outs = [measure(analysis, f, point, seed) for seed in range(0, 60, 2)]
    assert outs[0]["efficiency/evals"] == [21.0, 42.0, 84.0, 168.0, 336.0, 672.0]
    for at in (0, 3, 5):
        n = 10 * 2**at
        got = torch.tensor([o["efficiency/cosine"][at] for o in outs])
        law = math.sqrt(n / (n + DIM + 1))
        assert float(got.mean()) == pytest.approx(law, abs=4 * float(got.std()) / 30**0.5 + 0.01)
    n_eff = sum(o["efficiency/at_evals/n_eff"] for o in outs) / len(outs)
    assert n_eff == pytest.approx(320, rel=0.15)
    assert outs[0]["efficiency/at_evals/calls"] == 32
    assert outs[0]["efficiency/at_seconds/calls"] == 1  # 1e-9 s pays for none: one is the least


def test_efficiency_calls_a_deterministic_estimator_once(slope):
    f, point, _ = slope
    out = measure(Efficiency(CDG(0.1), CDG(0.1)), f, point)
    assert out["efficiency/calls"] == [1.0] and out["efficiency/at_evals/n_eff"] == math.inf
    assert measure(Efficiency(CDG(0.1), CDG(0.1), evals=3), f, point)["efficiency/over"] == 1.0


def test_losses_of_a_short_training_are_those_computed_by_hand():
    f = from_function(lambda p: (p["w"] ** 2).sum() / 2, vectorized=True)
    point = {"w": torch.tensor([4.0]).double()}
    analysis = Training(CDG(0.1), evals=9, steps=50, lr_min=0.5, lr_max=2.0, points=3)
    out = measure(analysis, f, point)
    assert out["training/steps"] == 3  # 2 D + 1 = 3 evals a step
    expected = []
    for lr in (0.5, 1.0, 2.0):
        w = 4.0
        for step in range(3):
            w -= lr * (1 - step / 3) / 4 * w
        expected.append(w * w / 2)
    assert out["training/losses"] == pytest.approx(expected)
    assert out["training/lr"] == pytest.approx(2.0) and out["training/edge"] == 1.0
    assert out["training/ratio"] == pytest.approx(min(expected) / 8)


def test_a_training_on_a_constant_loss_does_not_move():
    f = from_function(lambda p: (p["w"] * 0).sum() + 2, vectorized=True)
    point = {"w": torch.ones(3).double()}
    out = measure(Training(CDG(0.1)), f, point)
    assert out["training/loss"] == 2.0
    f.heldout = f
    out = Training(Random())(f, point, Estimate(f.value(point), point, 1.0), gen())
    assert out["training/heldout"] == 2.0


def test_fewer_samples_a_step_give_a_training_more_steps(slope):
    f, point, _ = slope
    own = measure(Training(NES(samples=500), evals=2002), f, point)
    few = measure(Training(NES(samples=500), evals=2002, samples=20), f, point)
    assert (own["training/steps"], few["training/steps"]) == (2, 48)
    assert few["training/loss"] < own["training/loss"]
