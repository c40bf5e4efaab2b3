"""Tests that analyses count losses that are not finite and leave them out of means and bests."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_analysis_points import ANALYSES

from sa.analysis import _finite
from sa.analysis._allocation import Losses, anneal, greedy, ilp
from sa.analysis.bias_variance import BiasVariance, split
from sa.analysis.critical_points import CriticalPoints
from sa.analysis.curvature import Curvature
from sa.analysis.descent import Descent
from sa.analysis.efficiency import Efficiency
from sa.analysis.eigenvectors import Eigenvectors
from sa.analysis.sharpness import Sharpness
from sa.analysis.smoothing import Smoothing
from sa.analysis.surface import Surface
from sa.analysis.training import Training
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.estimator.ste import STE
from sa.objective.function import from_function
from sa.params import flatten
from sa.table import ranking
from sa.types import Diverged, Estimate

BAD = (math.nan, math.inf, -math.inf)
POINT = {"w": torch.tensor([0.5, -0.4, 0.3], dtype=torch.float64)}


def walled(bad, far=2.0):
    """Return the loss |w|^2, replaced by ``bad`` where |w| is ``far`` or more."""

    def f(p):
        square = (p["w"] ** 2).sum()
        return torch.where(square < far**2, square, bad)

    return from_function(f, vectorized=True)


def only_here(bad):
    """Return a loss that is finite at POINT and ``bad`` everywhere else."""
    return from_function(
        lambda p: torch.where((p["w"] == POINT["w"]).all(), (p["w"] ** 2).sum(), bad),
        vectorized=True,
    )


def told(analysis, f):
    grad = {"w": 2 * POINT["w"]}
    estimate = Estimate(torch.tensor(0.5, dtype=torch.float64), grad, 1.0)
    return analysis(f, POINT, estimate, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bad", BAD)
def test_descent_takes_the_best_of_the_finite_losses(bad):
    got, clean = (told(Descent(CDG(), lr_max=1e4), f) for f in (walled(bad), walled(bad, 1e9)))
    assert got["descent/best"] == pytest.approx(0.5, abs=0.01)  # the bottom of the bowl
    assert got["descent/best_lr"] == pytest.approx(0.5**0.5, rel=0.1)
    assert got["descent/nonfinite"] > 0 and got["descent/diverged"] == 0
    assert got["descent/ratio"] == pytest.approx(1)
    assert got["descent/window"] == pytest.approx(clean["descent/window"], abs=0.5)
    same = ("best", "area", "null_best", "edge", "layerwise/best", "layerwise/best_lr")
    for k in same:
        assert got[f"descent/{k}"] == pytest.approx(clean[f"descent/{k}"], rel=0.05), k


@pytest.mark.parametrize("bad", BAD)
def test_an_analysis_without_one_finite_loss_reports_diverged(bad):
    f = only_here(bad)
    for name in ("descent", "smoothing"):
        got = told(ANALYSES[name], f)
        best = "descent/best" if name == "descent" else "smoothing/sigma"
        assert got[f"{name}/diverged"] == 1 and math.isnan(got[best])
    got = told(Training(NES(samples=4), evals=40, points=3), f)
    assert got["training/diverged"] == 1 and math.isnan(got["training/lr"])
    got = told(BiasVariance(NES(samples=4), STE(), replicates=4), f)
    assert got["bias_variance/diverged"] == 1 and got["bias_variance/nonfinite"] == 4
    got = told(Efficiency(NES(samples=4), STE(), evals=40, most=4), f)
    assert got["efficiency/diverged"] == 1 and math.isnan(got["efficiency/at_evals/decrease"])
    assert math.isnan(got["efficiency/at_evals/n_eff"])


@pytest.mark.parametrize("bad", BAD)
def test_means_and_extremes_are_taken_over_the_finite_losses(bad):
    f = walled(bad, 0.75)  # the point is at 0.707
    got = told(Sharpness(view="smoothed", sigma=0.05), f)
    assert 0 < got["sharpness/nonfinite"] < 64 and math.isfinite(got["sharpness/rise"])
    assert math.isfinite(got["sharpness/rise_error"])
    got = told(Surface(points=5), f)
    assert got["surface/least"] >= 0 and got["surface/most"] < 0.75**2
    assert 0 < got["surface/nonfinite"] < 25
    got = told(Smoothing(NES(samples=8), epsilons=(0.01, 0.1), sigmas=(0.01, 0.1)), f)
    assert got["smoothing/nonfinite"] > 0 and got["smoothing/diverged"] == 0
    assert all(map(math.isfinite, [*got["smoothing/box/gap"], *got["smoothing/gaussian/best"]]))
    got = told(Sharpness(rounds=3, rho=0.2), f)
    assert got["sharpness/nonfinite"] > 0 and math.isfinite(got["sharpness/sam"])


def test_replicates_that_are_not_finite_are_left_out():
    f, estimator = walled(math.nan, 0.75), NES(samples=1, sigma=0.1)
    got = told(BiasVariance(estimator, STE(), replicates=40), f)
    assert 0 < got["bias_variance/nonfinite"] < 39 and got["bias_variance/diverged"] == 0
    assert all(math.isfinite(v) for v in got.values())


@pytest.mark.parametrize(
    "analysis",
    [
        Curvature(k=1),
        Eigenvectors(k=1),
        CriticalPoints(solver="none"),
        Surface(axes="eigenvectors"),
        Sharpness(rounds=1, starts=1),
    ],
)
def test_second_derivatives_that_are_not_finite_raise_diverged(analysis):
    f = from_function(lambda p: ((p["w"] - POINT["w"]).abs() ** 1.5).sum())
    with pytest.raises(Diverged, match="second derivatives"):
        told(analysis, f)


def test_the_other_analyses_run_when_one_diverges():
    from test_train import SGD, problem, rows

    class Lost:
        def __call__(self, objective, params, estimate, generator, at):
            raise Diverged("nothing is finite")

    analyses = {"lost": Lost(), "descent": Descent(points=5, nulls=1)}
    row = rows(problem(), STE("clipped"), SGD, 0, analyses=analyses)[-1][0]
    assert row["lost/diverged"] == 1 and math.isfinite(row["descent/best"])
    assert "diverged" not in row


def test_best_most_and_mean_take_the_finite_numbers_alone():
    x = torch.tensor([math.nan, 1.0, math.inf, 3.0, -math.inf])
    assert _finite.best(x) == 3 and _finite.most(x) == 3 and _finite.mean(x) == 2
    assert _finite.counted(x) == {"nonfinite": 3.0, "diverged": 0.0}
    assert _finite.best(x[:1]) is None and math.isnan(_finite.most(x[:1]))
    assert _finite.counted(x[:1])["diverged"] == 1


def test_bit_allocations_avoid_losses_that_are_not_finite():
    curves = np.array([[math.inf, 2.0, 0.0], [5.0, math.nan, 0.0]])
    table = np.outer([1.0, 1.0], [1.0, 2.0, 3.0])

    def loss(choice):
        return float(sum(curves[i, k] for i, k in enumerate(choice)))

    start = (1, 2)
    for choice in (
        greedy(Losses(loss), table, 5.0),
        ilp(curves, table, 5.0),
        anneal(Losses(loss), table, 5.0, start, 50, torch.Generator().manual_seed(0)),
    ):
        assert math.isfinite(loss(choice)), choice


RANKS = ((ranking.kendall, stats.kendalltau), (ranking.spearman, stats.spearmanr))


@pytest.mark.parametrize(("mine", "reference"), RANKS)
def test_rank_statistics_order_infinities_and_leave_nan_out(mine, reference):
    x = pd.Series([1.0, math.inf, math.inf, -math.inf, 2.0, math.nan])
    y = pd.Series([2.0, math.inf, 9.0, 1.0, math.inf, 0.0])
    large, larger = (s.replace({math.inf: 1e9, -math.inf: -1e9}) for s in (x, y))
    wanted = reference(large[:5], larger[:5]).statistic
    assert mine(x, y) == pytest.approx(wanted, abs=1e-12) and math.isfinite(wanted)
    assert mine(x, x) == 1 and mine(x, -x) == -1
    assert math.isnan(mine(pd.Series([math.inf] * 4), pd.Series([1.0, 2, 3, 4])))


@pytest.mark.parametrize("count", [4, 8, 32])
def test_5_percent_of_unbiased_coordinates_are_outside_their_95_percent_interval(count):
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(count, 40_000, generator=g, dtype=torch.float64)
    got = split(draws, torch.zeros(40_000, dtype=torch.float64) + 1e-9)
    assert got["z_outside"] == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 40_000) ** 0.5)
    if count > 5:  # with fewer draws z has no fourth moment, so its mean square has no error bar
        assert got["z_rms"] == pytest.approx(((count - 1) / (count - 3)) ** 0.5, rel=0.02)


def test_95_percent_intervals_of_replicates_contain_the_mean_95_percent_of_the_time():
    g, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        draws = 1 + torch.randn(4, 1, generator=g, dtype=torch.float64)
        got = split(draws, torch.ones(1, dtype=torch.float64))
        held += abs(got["scale"] - 1) <= got["scale_ci95"]
    assert held / 400 == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 400) ** 0.5)


@pytest.mark.parametrize("name", sorted(set(ANALYSES) - {"efficiency", "bias_variance"}))
def test_no_number_of_a_float64_run_is_rounded_to_float32(name):
    """Shares, norms and cosines are float64 too: 1/3 is not 0.33333334."""
    f, mine = walled(math.inf, 1e9), NES(samples=4)
    at = {"w": torch.tensor([0.5, -0.4, 0.3, 0.7, -0.2, 0.1, 0.9], dtype=torch.float64)}
    estimate = mine(f, at, {}, torch.Generator().manual_seed(0))
    got = ANALYSES[name](f, at, estimate, torch.Generator().manual_seed(1))
    for key, value in got.items():
        for x in value if isinstance(value, list) else [value]:
            if isinstance(x, float) and math.isfinite(x) and float(np.float32(x)) == x:
                assert x * 2**12 == round(x * 2**12), f"{key} is {x!r}"


def test_a_share_of_a_third_is_a_third():
    from sa.analysis.alignment import Alignment

    f = from_function(lambda p: (p["w"] ** 2).sum())
    estimate = Estimate(f.value(POINT), {"w": POINT["w"] * torch.tensor([1, -1, -1])}, 1.0)
    got = Alignment({"ste": STE()})(f, POINT, estimate, torch.Generator())
    assert got["alignment/sign"] == 1 / 3
    assert flatten(estimate.grad).dtype == torch.float64
