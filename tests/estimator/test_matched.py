"""Noise that matches a slope: its moments, and the slope of the steps that it smooths."""

import math

import pytest
import torch
from test_laws import run
from torch import nn

import sa
from sa.estimator import _guide, _matched, _slopes
from sa.estimator.fogzo import FOGZO
from sa.params import flatten
from sa.quantizer.dorefa import Dorefa
from sa.quantizer.lsq import LSQ
from sa.quantizer.sign import Sign
from sa.quantizer.uniform import Uniform
from sa.quantizer.xnor import Xnor

N = 400_000
NORMAL = torch.special.ndtri((torch.arange(N, dtype=torch.float64) + 0.5) / N)
"""The normal numbers of N equal shares: means over them are integrals, up to about 1/N."""

SIGNS = [k for k, (_, _, sign) in _matched.DENSITIES.items() if sign]
ROUNDINGS = [k for k, (draw, _, _) in _matched.DENSITIES.items() if draw is not _matched.logistic]


@pytest.mark.parametrize(("draw", "fourth"), [
    (_matched.uniform, 9 / 5), (_matched.triangular, 12 / 5), (_matched.logistic, 21 / 5),
])  # fmt: skip
def test_matched_noise_has_mean_0_variance_1_and_the_kurtosis_of_its_distribution(draw, fourth):
    z = draw(NORMAL)
    assert abs(float(z.mean())) < 1e-12
    assert float(z.square().mean()) == pytest.approx(1, rel=1e-3)
    assert float(z.pow(4).mean()) == pytest.approx(fourth, rel=1e-2)
    far = draw(torch.tensor([-9.0, 0.0, 9.0]))  # float32
    assert far.isfinite().all() and far[1] == 0 and far[0] == -far[2]


def test_standard_deviations_are_those_of_the_densities_m_over_2():
    found = {k: _matched.density(k)[1] for k in ("tanh", "poly", "clipped", "identity")}
    assert found == pytest.approx({
        "tanh": math.pi / math.sqrt(12), "poly": 1 / math.sqrt(6), "clipped": 1 / math.sqrt(3),
        "identity": 1 / math.sqrt(3),
    })  # fmt: skip
    for slope in SIGNS:  # the second moment of m/2 by the trapezoidal rule
        a = torch.linspace(-60, 60, 2_400_001, dtype=torch.float64)
        moment = torch.trapezoid(_slopes.rule(slope)(a) / 2 * a.square(), a)
        assert float(moment.sqrt()) == pytest.approx(_matched.density(slope)[1], rel=1e-4)


def smoothed(step, w, slope, half=1.0):
    """Return E step(w + r z) for z the noise that matches the slope, r its width."""
    draw, std = _matched.density(slope)
    return step(w + half * std * draw(NORMAL)).mean()


@pytest.mark.parametrize("slope", SIGNS)
def test_the_slope_of_a_smoothed_sign_is_the_surrogate(slope):
    multiplier, h = _slopes.rule(slope), 0.02
    for w in (-1.3, -0.6, -0.1, 0.25, 0.8, 2.0):
        rise = smoothed(torch.sign, w + h, slope) - smoothed(torch.sign, w - h, slope)
        inside = torch.linspace(w - h, w + h, 201, dtype=torch.float64)
        assert float(rise / (2 * h)) == pytest.approx(float(multiplier(inside).mean()), abs=1e-3)


@pytest.mark.parametrize("slope", ROUNDINGS)
def test_the_slope_of_a_smoothed_rounding_is_the_surrogate_between_all_thresholds(slope):
    s, h = 0.4, 0.004
    step = lambda w: s * torch.round(w / s)  # noqa: E731
    for w in (-0.77, -0.31, 0.05, 0.11, 0.26, 0.93):
        rise = smoothed(step, w + h, slope, s / 2) - smoothed(step, w - h, slope, s / 2)
        inside = torch.linspace(w - h, w + h, 201, dtype=torch.float64).requires_grad_()
        with sa.surrogate.backward(_slopes.rule(slope)):
            (s * sa.surrogate.rounded(inside / s)).sum().backward()
        assert float(rise / (2 * h)) == pytest.approx(float(inside.grad.mean()), abs=2e-3)


def loss_of(*quantizers):
    """Return a loss of a chain of linear layers with quantized weights."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for i, _ in enumerate(quantizers):
        net.add_module(f"fc{i}", nn.Linear(6, 6))
        net.add_module(f"act{i}", nn.ReLU())
    rules = {f"fc{i}": q for i, q in enumerate(quantizers)}
    net = sa.quantize(net.double(), rules)
    rows = torch.randn(20, 6, dtype=torch.float64), torch.randint(0, 6, (20,))
    return sa.loss(net, rows, moving=["*bias", "*original"])


def test_half_steps_are_those_of_the_quantizers():
    loss = loss_of(LSQ(2), Xnor(), Sign(), Uniform(3, granularity="channel"))
    found = _matched.half_steps(loss, loss.point, "clipped")
    names = [k for k in loss.point if k.endswith("original")]
    assert list(found) == names
    weight = loss.point[names[0]]
    assert float(found[names[0]]) == pytest.approx(float(weight.abs().mean()))  # (2 mean |w|)/2
    assert found[names[1]] == found[names[2]] == 1
    most = loss.point[names[3]].abs().amax(1, keepdim=True)
    torch.testing.assert_close(found[names[3]], most / 3 / 2)


def test_matched_noise_moves_each_layer_by_its_own_width_and_other_parameters_by_sigma(
    monkeypatch,
):
    loss, moves = loss_of(LSQ(2), LSQ(2)), []
    with torch.no_grad():
        loss.point["fc1.parametrizations.weight.original"].mul_(3)
    real = _guide.pair_losses
    monkeypatch.setattr(_guide, "pair_losses", lambda *of: moves.append(of[2]) or real(*of))
    got = FOGZO("identity", sigma=0.01, samples=4000, beta=0, noise="matched")(loss, seed=1)
    assert got.evals == 2 * 4000 + 1 and "beta" in got.info
    spread = sa.params.unflatten(torch.cat(moves), loss.point)
    halves = _matched.half_steps(loss, loss.point, "identity")
    for name, moved in spread.items():
        wide = float(halves[name]) / math.sqrt(3) if name in halves else 0.01
        assert float(moved.std()) == pytest.approx(wide, rel=0.02), name
        assert float(moved.abs().max()) <= wide * math.sqrt(3), name


def test_without_noise_the_matched_estimate_has_the_direction_of_the_surrogate_gradient():
    loss = loss_of(LSQ(2), Uniform(2))
    got = flatten(FOGZO("identity", samples=1, beta=1, noise="matched")(loss, seed=0).grad)
    guide = flatten(sa.STE("identity")(loss, seed=0).grad)
    assert float(got @ guide / (got.norm() * guide.norm())).__abs__() == pytest.approx(1)


def test_constant_beta_0_takes_no_surrogate_gradient(quadratic):
    loss = sa.loss(quadratic, params=quadratic.point)
    assert run(FOGZO(beta=0, samples=3), loss, quadratic.point).evals == 7
    assert run(FOGZO(beta=0, samples=3, anneal=True), loss, quadratic.point).evals == 9
    assert FOGZO(beta=0).target == "cube" and FOGZO(beta=0, anneal=True).target == "none"
    assert FOGZO("identity", beta=0, noise="matched").target == "none"


@pytest.mark.parametrize(("estimator", "quantizer", "told"), [
    (FOGZO("swish", noise="matched"), Sign(), "no noise matches surrogate=swish; take identity"),
    (FOGZO("identity", noise="matched"), Sign(), "take surrogate=clipped, steep or poly"),
    (FOGZO("tanh", noise="matched"), LSQ(2), "take surrogate=clipped, steep or poly"),
    (FOGZO("clipped", noise="matched"), Dorefa(2), "is the slope of no smoothing"),
    (FOGZO("clipped", noise="matched"), Uniform(2, granularity="group:3"), "one scale"),
])  # fmt: skip
def test_slopes_without_a_matching_noise_are_refused(estimator, quantizer, told):
    with pytest.raises(ValueError, match=told):
        estimator(loss_of(quantizer), seed=0)


def test_matched_noise_needs_quantized_weights(sa):
    code, _, err = sa("estimator=fogzo", "estimator.noise=matched", "dim=3", "dataset.n=9")
    assert code == 2 and "quantized weights" in err and "estimator.noise=uniform" in err
