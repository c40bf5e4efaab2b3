"""Tests of critical points and sharpness against closed forms."""

from itertools import combinations

import pytest
import torch

from sa.analysis.critical_points import CriticalPoints, redundant
from sa.analysis.sharpness import Sharpness
from sa.dataset.linear import Linear
from sa.model.fc import FC
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.types import Estimate


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def nothing(f, point):
    return Estimate(f.value(point), {k: torch.zeros_like(p) for k, p in point.items()}, 1.0)


def of(analysis, f, point, seed=0):
    return analysis(f, point, nothing(f, point), gen(seed))


def quadratic(values, seed=0):
    """Return the objective (w - c)'A(w - c)/2 with the given eigenvalues, A and c."""
    values = torch.tensor(values, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=gen(seed)).double()).Q
    a, c = basis * values @ basis.T, torch.randn(len(values), generator=gen(seed + 1)).double()
    return from_function(lambda p: (p["w"] - c) @ a @ (p["w"] - c) / 2, vectorized=True), a, c


SPECTRUM = [4.0, 2.0, 1.0, 0.5, 1e-6, 1e-9, -0.1, -3.0, 0.0, 0.0]


@pytest.mark.parametrize("solver", ["gnm", "lm"])
def test_signs_of_the_eigenvalues_of_a_known_spectrum_are_counted(solver):
    f, _, c = quadratic(SPECTRUM)
    point = {"w": c + torch.randn(10, generator=gen(5)).double()}
    out = of(CriticalPoints(solver=solver), f, point)
    # tau is relative to max|l| = 4: 1e-6 counts as positive for tau <= 1e-7, and 1e-9 for 1e-10
    assert out["critical_points/taus"] == [1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4]
    assert out["critical_points/n_pos"] == [6, 5, 5, 5, 4, 4, 4]
    assert out["critical_points/n_neg"] == [2] * 7
    assert out["critical_points/n_zero"] == [2, 3, 3, 3, 4, 4, 4]
    assert out["critical_points/minimal_ratio"] == 0.5 and out["critical_points/index"] == 0.2
    assert out["critical_points/status"] == "critical"
    assert out["critical_points/norm"] < 1e-4 * out["critical_points/norm_start"]
    assert out["critical_points/lambda_max"] == pytest.approx(4)
    assert out["critical_points/lambda_min"] == pytest.approx(-3)


@pytest.mark.parametrize("start", [0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("solver", ["gnm", "lm"])
def test_a_minimum_of_the_gradient_norm_above_0_is_stalled_and_not_critical(solver, start):
    f = from_function(lambda p: p["w"][0] + p["w"][1] ** 2)
    out = of(CriticalPoints(solver=solver), f, {"w": torch.tensor([0.3, start]).double()})
    assert out["critical_points/status"] == "stalled"
    assert out["critical_points/norm"] == pytest.approx(1)
    assert out["critical_points/flat"] < 1e-6
    assert out["critical_points/kernel"] == pytest.approx(1)


@pytest.mark.parametrize("start", [0.1, 30.0, 1e6])
def test_newton_on_an_unbounded_loss_is_stalled(start):
    f = from_function(lambda p: p["w"][0] + p["w"][1] ** 2)
    at = {"w": torch.tensor([0.3, start]).double()}
    out = of(CriticalPoints(solver="newton"), f, at)
    assert out["critical_points/status"] == "stalled" and out["critical_points/critical"] == 0
    assert 1 <= out["critical_points/norm"] < 1.1


def test_a_search_without_steps_is_unconverged_unless_it_starts_at_a_critical_point():
    f, _, c = quadratic([4.0, 1.0, 0.1, -1.0])
    away = {"w": c + torch.ones(4).double()}
    assert of(CriticalPoints(solver="none"), f, away)["critical_points/status"] == "unconverged"
    there = of(CriticalPoints(solver="none"), f, {"w": c})
    assert there["critical_points/status"] == "critical"
    assert there["critical_points/steps"] == 0


@pytest.mark.parametrize("start", [(2.0, 0.7), (-0.9, 0.7), (0.1, -3.0)])
def test_newton_descends_to_the_minimum_of_a_cubic_past_its_saddle(start):
    f = from_function(lambda p: p["w"][0] ** 3 / 3 - p["w"][0] + p["w"][1] ** 2)
    out = of(CriticalPoints(solver="newton", steps=60), f, {"w": torch.tensor(start).double()})
    assert out["critical_points/status"] == "critical" and out["critical_points/index"] == 0
    assert out["critical_points/loss"] == pytest.approx(-2 / 3)
    assert out["critical_points/steps"] < 60


def test_newton_finds_the_minimum_of_rosenbrock_within_its_budget_of_products():
    f = from_function(lambda p: (1 - p["w"][0]) ** 2 + 100 * (p["w"][1] - p["w"][0] ** 2) ** 2)
    at = {"w": torch.tensor([-1.2, 1.0]).double()}
    out = of(CriticalPoints(solver="newton", steps=200), f, at)
    assert out["critical_points/status"] == "critical"
    assert out["critical_points/minimal_ratio"] == 1.0
    assert out["critical_points/norm"] < 1e-10 and out["critical_points/steps"] <= 200
    short = of(CriticalPoints(solver="newton", steps=9), f, at)
    assert short["critical_points/status"] == "unconverged"
    bowl, _, c = quadratic([8.0, 4.0, 2.0, 1.0, 0.5])  # conjugate gradients would need 5 products
    cut = of(CriticalPoints(solver="newton", steps=3), bowl, {"w": c + 0.1})
    assert cut["critical_points/steps"] == 3


def test_newton_takes_no_step_uphill():
    # in this narrow well the curvature at 0.3 is negative, and a step of 1 lands where it is flat
    f = from_function(lambda p: 1 - torch.exp(-50 * p["w"].square().sum()))
    out = of(CriticalPoints(solver="newton", steps=60), f, {"w": torch.tensor([0.3]).double()})
    assert out["critical_points/loss"] == pytest.approx(0, abs=1e-12)
    assert out["critical_points/minimal_ratio"] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_critical_points_of_a_linear_network_have_the_losses_of_baldi_and_hornik(seed):
    """The loss is the sum of the squared singular values left out (Baldi & Hornik 1989)."""
    model = FC(shape=(4,), hidden=(2,), outputs=4, activation="linear")
    made = prepare(Task(model, Linear(dim=4, n=12)), seed)
    f, train = made.objective(made.data.train), made.data.train
    x, y = (z - z.mean(0) for z in train)  # the biases fit the means
    values, basis = torch.linalg.eigh(x.T @ x)
    squares = torch.linalg.svdvals(y.T @ x @ basis / values.sqrt()).square() / (12 * 4)
    kept = [c for k in range(3) for c in combinations(range(4), k)]
    laws = torch.stack([squares.sum() - squares[list(c)].sum() for c in kept])
    out = of(CriticalPoints(solver="lm"), f, made.params)
    assert out["critical_points/status"] == "critical"
    assert float((laws - out["critical_points/loss"]).abs().min()) < 1e-9 * float(laws.max())
    least = of(CriticalPoints(solver="newton", steps=2000), f, made.params)
    assert least["critical_points/loss"] == pytest.approx(float(squares[2:].sum()), rel=1e-9)
    # flat directions: w1 -> A w1 with w2 -> w2 A^-1 gives 4, inner against outer biases gives 2
    assert least["critical_points/index"] == 0 and least["critical_points/n_zero"][3] == 4 + 2


def test_levenberg_marquardt_finds_the_saddle_of_a_cubic():
    # x^3/3 - x + y^2: a minimum at (1, 0), a saddle at (-1, 0)
    f = from_function(lambda p: p["w"][0] ** 3 / 3 - p["w"][0] + p["w"][1] ** 2)
    for solver in ("gnm", "lm"):
        for x, index in ((2.0, 0.0), (-1.6, 0.5)):
            out = of(CriticalPoints(solver=solver), f, {"w": torch.tensor([x, 0.7]).double()})
            assert out["critical_points/status"] == "critical", (solver, x)
            assert out["critical_points/index"] == index
            assert out["critical_points/loss"] == pytest.approx(-2 / 3 if x > 0 else 2 / 3)


def test_the_bias_of_a_dead_unit_is_not_redundant():
    """A larger bias activates a dead unit; the bias b is subtracted again and has no effect."""
    f = from_function(
        lambda p: ((p["a"] - 5).relu().sum() + (p["b"] - p["b"]).sum() - 1) ** 2, vectorized=False
    )
    point = {k: torch.zeros(1, dtype=torch.float64) for k in "ab"}
    assert all(redundant(f, point, gen(seed)) == ["b"] for seed in range(20))


def test_a_point_with_an_infinite_gradient_norm_is_not_critical():
    f = from_function(lambda p: (p["w"] * torch.tensor([1e308, 1e308], dtype=torch.float64)).sum())
    point = {"w": torch.ones(2, dtype=torch.float64)}
    out = of(CriticalPoints(solver="none"), f, point)
    assert out["critical_points/norm"] == float("inf")
    assert out["critical_points/status"] == "unconverged" and out["critical_points/critical"] == 0


def test_the_l1_solver_ends_where_the_gradient_equals_the_penalty():
    values = torch.tensor([2.0, 1.0, 0.5]).double()
    c = torch.tensor([1.0, -1.0, 0.1]).double()
    f = from_function(lambda p: (values * (p["w"] - c) ** 2).sum() / 2)
    out = of(CriticalPoints(solver="l1", penalty=0.1), f, {"w": c.clone()})
    # w_i = soft(c_i, penalty/a_i): g = -0.1 sign(w) on two coordinates, a c = 0.05 at w = 0
    assert out["critical_points/norm"] == pytest.approx((0.1**2 + 0.1**2 + 0.05**2) ** 0.5)
    assert out["critical_points/penalised"] == 1.0
    assert out["critical_points/status"] == "unconverged"


def test_a_hessian_too_large_for_memory_is_refused_and_curvature_is_suggested():
    with pytest.raises(ValueError, match=r"40000 x 40000, 12207 MiB.*memory=.*analysis=curvature"):
        CriticalPoints().fits({"w": torch.zeros(200, 200)}, 1 << 30)
    CriticalPoints().fits({"w": torch.zeros(571)}, 128 << 20)


def test_sharpness_measures_of_a_quadratic_are_their_closed_forms():
    a = torch.tensor([3.0, 1.0, 0.2]).double()
    c = torch.tensor([1.0, -2.0, 0.5]).double()
    f = from_function(lambda p: (a * (p["w"] - c) ** 2).sum() / 2, vectorized=True)
    out = of(Sharpness(epsilon=0.01, rho=0.2, adaptive=0.1), f, {"w": c})
    box = (a * (0.01 * (c.abs() + 1)) ** 2).sum() / 2
    assert out["sharpness/keskar"] == pytest.approx(float(100 * box), rel=1e-9)
    assert out["sharpness/sam"] == pytest.approx(3 * 0.2**2 / 2, rel=1e-6)  # lambda rho^2/2
    # d = w u with |u| = rho: the largest a_i w_i^2 is 4, that of the second coordinate
    assert out["sharpness/asam"] == pytest.approx(4 * 0.1**2 / 2, rel=1e-6)
    assert out["sharpness/lambda_max"] == pytest.approx(3)
    assert out["sharpness/sam_step"] == 0.0
    w = c + torch.tensor([0.3, -0.2, 1.0]).double()
    away = of(Sharpness(rho=0.2), f, {"w": w})
    g = a * (w - c)
    law = 0.2 * g.norm() + 0.2**2 * (g @ (a * g)) / (2 * g @ g)
    assert away["sharpness/sam_step"] == pytest.approx(float(law))
    assert away["sharpness/sam"] >= away["sharpness/sam_step"]


def test_smoothed_sharpness_of_a_quadratic_is_half_sigma_squared_of_its_trace():
    f, a, c = quadratic([3.0, 1.0, 0.2, -0.4])
    out = of(Sharpness(view="smoothed", sigma=0.3, draws=4000), f, {"w": c})
    law = 0.3**2 * float(a.trace()) / 2
    assert abs(out["sharpness/rise"] - law) < 4 * out["sharpness/rise_error"]
    assert out["sharpness/rise_error"] < 0.05 * law
