"""Tests that estimators leave out and count losses that are not finite; NaN if all are."""

import math

import pytest
import torch
from conftest import component, options

from sa import surrogate
from sa.estimator import _shaping
from sa.estimator.best_of import BestOf
from sa.estimator.cdg import CDG
from sa.estimator.discrete_gradient import nearest
from sa.estimator.mezo import MeZO
from sa.estimator.nes import NES
from sa.estimator.reinforce import Reinforce
from sa.estimator.spsa import SPSA
from sa.objective.function import from_function
from sa.params import flatten

BAD = (math.nan, math.inf, -math.inf)
GUIDED = ("fogzo", "guided_es", "orthonormal_probe", "best_of_ste", "best_of_span")
SEARCHES = ("best_of", "best_of_ste", "best_of_span", "snes", "xnes", "cma")
NEED = {"local_nes", "discrete_gradient", "spectral", "spectral_ste", "flow"}  # need more than f
PROBES = sorted(
    name
    for name in options("estimator")
    if component("estimator", name).target != "stochastic"
    and name not in NEED | {"random", "forward_gradient"}
    and not name.startswith("ste")
)


def cliff(quadratic, bad, height):
    """Return the quadratic below a height, and ``bad`` above it.

    The height depends mostly on the last coordinate and is counted from the quadratic's point.
    """

    def place(p):
        return p["v"][-1] + 0.3 * (p["m"].sum() + p["v"][0])

    edge = place(quadratic.point) + height

    def f(p):
        return torch.where(place(p) < edge, quadratic(p), bad)

    return from_function(f, vectorized=True)


def run(estimator, f, point, seed=0):
    return estimator(f, point, estimator.init(point), torch.Generator().manual_seed(seed))


def few(name):
    """Return the estimator with few draws; the laws hold for any number of draws."""
    made = component("estimator", name)
    if name in ("snes", "xnes", "cma"):
        return component("estimator", name, generations=10)
    return component("estimator", name, samples=40) if getattr(made, "samples", 0) > 4 else made


@pytest.mark.parametrize("name", PROBES)
def test_losses_that_are_not_finite_are_left_out_and_counted(name, quadratic):
    estimator, some = few(name), 0
    for bad in BAD:
        for height in (0.005, 0.03, 0.08):
            got = run(estimator, cliff(quadratic, bad, height), quadratic.point)
            left_out = got.info["nonfinite"]
            all_of_it = flatten(got.grad).isnan().all()
            assert flatten(got.grad).isfinite().all() or (all_of_it and left_out > 0)
            some += left_out > 0 and not all_of_it
            if name in SEARCHES and not all_of_it:
                there = {k: p - got.grad[k] for k, p in quadratic.point.items()}
                gained = float(got.value - cliff(quadratic, bad, height).value(there))
                assert got.info["decrease"] == pytest.approx(gained, abs=1e-12)
    assert some or name in ("fogzo", "mezo")  # these have one direction: nothing or all is left out
    whole = run(estimator, from_function(quadratic, vectorized=True), quadratic.point)
    assert whole.info["nonfinite"] == 0


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", PROBES)
def test_an_estimate_without_one_finite_loss_is_nan(name, bad, quadratic):
    def f(p):
        apart = sum((p[k] - quadratic.point[k]).abs().sum() for k in p)
        return torch.where(apart == 0, quadratic(p), bad)

    got = run(few(name), from_function(f, vectorized=True), quadratic.point)
    assert flatten(got.grad).isnan().all() and got.info["nonfinite"] > 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"antithetic": False, "baseline": "mean"}, {"antithetic": False}, {"orthogonal": True}],
)
def test_nes_is_the_mean_over_the_finite_directions(settings, quadratic):
    f = cliff(quadratic, math.nan, 0.05)
    got = run(NES(samples=64, **settings), f, quadratic.point)
    w = flatten(quadratic.point)
    from sa.estimator import _directions

    draw = _directions.orthogonal if settings.get("orthogonal") else _directions.gaussian
    e = torch.cat(list(draw(64, 6, torch.Generator().manual_seed(0), w)))
    up, down = (_directions.losses(f, quadratic.point, w + s * 0.1 * e) for s in (1, -1))
    both = (up - down) / 2 if settings.get("antithetic", True) else up
    e, both = e[both.isfinite()], both[both.isfinite()]
    n = len(e)
    if "baseline" in settings:
        both = (both - both.mean()) * n / (n - 1)
    assert 0 < n < 64 and got.info["nonfinite"] == 64 - n
    torch.testing.assert_close(flatten(got.grad), both @ e / (n * 0.1))


@pytest.mark.parametrize("shaping", ["ranks", "utilities"])
def test_directions_without_a_finite_loss_have_no_rank(shaping):
    seen = torch.tensor([[1.0, math.nan, 3.0, 7.0], [2.0, 5.0, math.inf, 4.0]])
    got = NES(shaping=shaping)._weights(seen)
    kept = _shaping.SHAPINGS[shaping](torch.tensor([1.0, 7.0, 2.0, 4.0])).view(2, 2)
    assert got.tolist() == [
        float(kept[0, 0] - kept[1, 0]) / 2,
        0,
        0,
        float(kept[0, 1] - kept[1, 1]) / 2,
    ]


def test_a_coordinate_without_a_finite_difference_gets_0_and_the_others_are_exact(quadratic):
    for path in (CDG(epsilon=0.1), component("estimator", "finite_difference")):
        whole = run(path, from_function(quadratic, vectorized=True), quadratic.point)
        got = run(path, cliff(quadratic, math.inf, 0.05), quadratic.point)
        assert got.info["nonfinite"] == 1
        assert flatten(got.grad)[-1] == 0
        torch.testing.assert_close(flatten(got.grad)[:-1], flatten(whole.grad)[:-1])


def test_a_direction_with_infinite_losses_at_both_ends_is_not_counted_as_flat():
    f = from_function(lambda p: torch.where(p["w"].abs().sum() == 0, 0.0, math.inf).double())
    for estimator in (NES(samples=8), SPSA(samples=8), MeZO(samples=8)):
        assert run(estimator, f, {"w": torch.zeros(3).double()}).info["flat"] == 0


def test_auto_takes_no_sigma_with_losses_that_are_not_finite():
    def f(p):
        return torch.where(p["w"].abs().max() < 1.05, 1 + 1e-3 * p["w"].sum(), math.nan)

    got = run(
        NES(sigma="auto", samples=8),
        from_function(f, vectorized=True),
        {"w": torch.ones(4, dtype=torch.float64)},
    )
    assert got.info["sigma"] <= 0.02 and math.isfinite(got.info["gap"])


def test_best_of_never_takes_a_point_whose_loss_is_not_finite(quadratic):
    got = run(BestOf(samples=64), cliff(quadratic, -math.inf, 0.01), quadratic.point)
    assert math.isfinite(got.info["decrease"]) and got.info["nonfinite"] > 0


def test_nearest_skips_pieces_of_a_profile_that_are_not_finite():
    shifts = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    losses = torch.tensor([1.0, math.nan, math.inf, 0.5], dtype=torch.float64)
    shift, drop = nearest(shifts, losses, 0.1)
    assert shift == pytest.approx(0.03, abs=1e-6) and drop == 0.5


RANDOM_UNITS = [n for n in options("estimator") if component("estimator", n).target == "stochastic"]


def units(sometimes):
    """Return a loss of four random units that is infinite: if all are up, or always.

    Args:
        sometimes: whether the loss is infinite only where all units are up.
    """

    def f(p):
        s = surrogate.bernoulli(p["w"].view(1, -1))
        total = (s * torch.arange(1.0, 5.0, dtype=torch.float64)).sum() ** 2
        up = (s > 0).all() if sometimes else (s == s).all()
        return total / torch.where(up, 0.0, 1.0)

    return from_function(f)


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_samples_that_are_not_finite_are_left_out(name):
    estimator = component("estimator", name, samples=24)
    point = {"w": torch.tensor([0.3, 0.9, 0.5, 1.4], dtype=torch.float64)}
    got = run(estimator, units(True), point)
    assert flatten(got.grad).isfinite().all() and 0 < got.info["nonfinite"] < 24
    assert flatten(run(estimator, units(False), point).grad).isnan().all()


def test_a_running_baseline_ignores_losses_that_are_not_finite():
    point = {"w": torch.tensor([0.3, 0.9, 0.5, 1.4], dtype=torch.float64)}
    estimator = Reinforce(baseline="running", samples=64)
    got = estimator(units(True), point, {"loss": 2.0}, torch.Generator().manual_seed(0))
    assert got.state == {"loss": 2.0} and got.info["nonfinite"] > 0
