"""Tests of estimators that return a displacement: best of many points, and evolution strategies."""

import math

import pytest
import torch
from conftest import component, options
from pydantic import ValidationError
from test_laws import problem, run

from sa.estimator import _guide
from sa.estimator._base import DISPLACEMENT
from sa.estimator.best_of import BestOf
from sa.estimator.xnes import XNES
from sa.network.hooks import trait
from sa.objective.function import from_function
from sa.params import flatten, unflatten

SEARCHES = [  # they look for the lowest point within rho
    x
    for x in options("estimator")
    if trait(component("estimator", x), "laws") == DISPLACEMENT
    and "rho" in vars(component("estimator", x))
]
ORACLES = [x for x in SEARCHES if not isinstance(component("estimator", x), BestOf)]


def moved(point, estimate):
    """Return the point after a step of learning rate 1."""
    return {k: v - estimate.grad[k] for k, v in point.items()}


def lowest(h, b, radius):
    """Return the minimum of d'Hd/2 + b'd over |d| <= radius.

    The minimum solves (H + t I) d = -b with t >= 0 and H + t I >= 0; t is found by bisection.
    """
    values, vectors = torch.linalg.eigh(h)
    g = vectors.T @ b
    low = max(0.0, -float(values[0])) + 1e-12
    high = low + 1e6
    if values[0] > 0 and (g / values).norm() <= radius:
        low = high = 0.0
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if (g / (values + t)).norm() > radius else (low, t)
    d = -g / (values + high)
    return float(d @ (values * d) / 2 + g @ d)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_step_of_learning_rate_1_lowers_the_loss_by_the_reported_decrease(name):
    p = problem()
    f = p.objective(p.batch(0))
    got = run(component("estimator", name, rho=0.3), f, p.params)
    length = float(flatten(got.grad).norm())
    if name not in ORACLES:
        assert length == pytest.approx(0.3)
    else:
        assert length <= 0.3 * (1 + 1e-9)
        assert got.info["length"] == pytest.approx(length)
    after = float(f.value(moved(p.params, got)))
    assert after == pytest.approx(float(got.value) - got.info["decrease"], abs=1e-12)
    assert got.info["decrease"] > 0 and component("estimator", name).target == "none"


@pytest.mark.parametrize("name", ["best_of_ste", "best_of_span"])
def test_best_of_is_never_worse_than_a_step_along_its_surrogate_gradients(name):
    p = problem()
    f = p.objective(p.batch(0))
    for rho in (0.01, 0.1, 0.5, 2.0):
        estimator = component("estimator", name, rho=rho, samples=8)
        got = run(estimator, f, p.params)
        for slope in estimator.surrogates:
            value, g = _guide.gradient(f, p.params, slope, torch.Generator())
            step = unflatten(flatten(p.params) - rho * g / g.norm(), p.params)
            assert float(f.value(step)) >= float(value) - got.info["decrease"] - 1e-12


def test_best_of_one_point_is_the_surrogate_step(quadratic):
    f = from_function(quadratic, vectorized=True)
    got = run(BestOf(samples=1, surrogates=("identity",)), f, quadratic.point)
    g = quadratic.grad
    torch.testing.assert_close(flatten(got.grad), 0.1 * g / g.norm())
    assert got.evals == 4


def test_best_of_stays_in_the_span_of_its_surrogate_gradients(quadratic):
    p = problem()
    f, slopes = p.objective(p.batch(0)), ("clipped", "poly")
    got = flatten(run(BestOf(samples=50, surrogates=slopes), f, p.params).grad)
    each = [_guide.gradient(f, p.params, s, torch.Generator())[1] for s in slopes]
    q = _guide.orthonormal(torch.stack(each))
    torch.testing.assert_close(got @ q.T @ q, got)


def test_cosine_of_best_of_on_a_linear_loss_is_the_largest_of_n_normal_draws():
    # on a linear loss the best of N has the largest of N cosines, each about N(0, 1/D)
    dim, n = 400, 1000
    g = torch.randn(dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    f = from_function(lambda p: p["w"] @ g, vectorized=True)
    at = {"w": torch.zeros(dim, dtype=torch.float64)}
    got = torch.stack([run(BestOf(samples=n), f, at, s).grad["w"] for s in range(40)])
    cosines = got @ g / (got.norm(dim=1) * g.norm())
    law = 3.2414 / math.sqrt(dim)  # E max of 1,000 standard normal numbers
    assert float(cosines.mean()) == pytest.approx(law, rel=0.05)


def test_best_of_evaluates_at_most_64_points_at_once():
    widest = 0

    def loss(p):
        return p["w"].sum()

    f = from_function(loss, vectorized=True)
    values = f.values

    def watched(stack, base=None):
        nonlocal widest
        widest = max(widest, len(stack["w"]))
        return values(stack, base)

    f.values = watched
    run(BestOf(samples=1000), f, {"w": torch.zeros(5, dtype=torch.float64)})
    assert widest == 64


@pytest.mark.parametrize("rho", [0.3, 3.0])
@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_finds_the_minimum_of_a_quadratic_over_the_ball(name, rho):
    dim, g = 12, torch.Generator().manual_seed(5)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64))[0]
    # indefinite at the small radius, so the minimum is on the sphere; inside at the large one
    values = torch.linspace(-1.0 if rho < 1 else 1.0, 4.0, dim, dtype=torch.float64)
    h, b = q @ torch.diag(values) @ q.T, torch.randn(dim, generator=g, dtype=torch.float64)
    f = from_function(lambda p: p["w"] @ h @ p["w"] / 2 + b @ p["w"], vectorized=True)
    at, law = {"w": torch.zeros(dim, dtype=torch.float64)}, lowest(h, b, rho)
    for seed in range(3):
        got = run(component("estimator", name, rho=rho), f, at, seed)
        assert 0.97 * -law <= got.info["decrease"] <= -law * (1 + 1e-9)
        d = -got.grad["w"]
        assert float(d @ h @ d / 2 + b @ d) == pytest.approx(-got.info["decrease"])


def test_an_oracle_does_not_move_from_a_minimum():
    f = from_function(lambda p: p["w"].square().sum(), vectorized=True)
    for name in ORACLES:
        got = run(component("estimator", name), f, {"w": torch.zeros(3, dtype=torch.float64)})
        assert not got.grad["w"].any() and got.info["decrease"] == 0


def test_xnes_updates_its_covariance_root_by_the_matrix_exponential():
    # two generations are computed here; torch.matrix_exp of the full exponent updates the root
    dim, n, rho = 4, 6, 1.0
    h = torch.diag(torch.arange(1.0, dim + 1, dtype=torch.float64))
    b = torch.ones(dim, dtype=torch.float64)
    f = from_function(lambda p: p["w"] @ h @ p["w"] / 2 + b @ p["w"], vectorized=True)
    got = run(XNES(rho, 2, n), f, {"w": torch.zeros(dim, dtype=torch.float64)})
    u = [max(0.0, math.log(n / 2 + 1) - math.log(i + 1)) for i in range(n)]
    u = torch.tensor([v / sum(u) - 1 / n for v in u], dtype=torch.float64)
    generator, best = torch.Generator().manual_seed(0), 0.0
    m = torch.zeros(dim, dtype=torch.float64)
    a = 0.3 * rho / math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)
    for _ in range(2):
        z = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        x = m + z @ a.T
        losses = (x @ h * x).sum(1) / 2 + x @ b
        z, best = z[losses.argsort()], min(best, float(losses.min()))
        m = m + a @ (u @ z)
        full = sum(u[i] * (torch.outer(z[i], z[i]) - torch.eye(dim)) for i in range(n))
        eta = 3 * (3 + math.log(dim)) / (5 * dim * math.sqrt(dim))
        a = a @ torch.matrix_exp(eta / 2 * full)
    assert float(x.norm(dim=1).max()) < rho  # nothing was projected
    assert got.info["decrease"] == pytest.approx(-best, rel=1e-9)


def test_settings_and_sizes_that_do_not_work_are_refused():
    with pytest.raises(ValidationError, match="samples=1 must be at least .* surrogates, 2"):
        BestOf(samples=1, surrogates=("identity", "poly"))
    with pytest.raises(ValidationError, match="should be 'identity'"):
        BestOf(surrogates=("ste",))
    point = {"w": torch.zeros(5000, dtype=torch.float64)}
    with pytest.raises(ValueError, match="D=5000 is above 4096: use snes or cma"):
        run(XNES(), from_function(lambda p: p["w"].sum()), point)
