"""Tests of NES against its closed forms (T1 to T4 of docs/truths.md)."""

import math

import pytest
import torch
from pydantic import ValidationError

from sa import surrogate
from sa.estimator import _scale, _shaping
from sa.estimator.nes import NES
from sa.objective.function import from_function
from sa.params import flatten


def draws(estimator, loss, point, count, start=0):
    f = from_function(loss, vectorized=True)
    return torch.stack(
        [
            flatten(estimator(f, point, {}, torch.Generator().manual_seed(start + s)).grad)
            for s in range(count)
        ]
    )


def linear(dim, f0=0.0):
    g = torch.randn(dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return g, lambda p: p["w"] @ g + f0


def zeros(dim):
    return {"w": torch.zeros(dim, dtype=torch.float64)}


def relative_variance(got, g):
    return float(((got - g) ** 2).sum(1).mean() / (g @ g))


def test_t1_relative_variance_of_antithetic_nes_is_d_plus_1_over_n():
    dim, counts = 20, [8, 32, 128, 512]
    g, loss = linear(dim)
    logs = []
    for n in counts:
        got = draws(NES(samples=n, sigma=0.1), loss, zeros(dim), 300)
        logs.append(math.log(relative_variance(got, g) / (dim + 1)))
        error = 4 * float(got.std(0).norm() / 300**0.5)
        assert float((got.mean(0) - g).norm()) <= error
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor(logs, dtype=torch.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert abs(slope + 1) < 0.05  # four points of 300 draws: standard error about 0.015
    assert abs(float((y - -x).mean())) < 0.06  # intercept log(D + 1)


@pytest.mark.parametrize("n", [10, 50, 250])
def test_t1_mean_cosine_of_nes_is_the_expected_cosine(n):
    dim = 50
    g, loss = linear(dim)
    estimator = NES(samples=n, sigma=0.3)
    got = draws(estimator, loss, zeros(dim), 200)
    cosines = got @ g / (got.norm(dim=1) * g.norm())
    law = math.sqrt(n / (n + dim + 1))
    # the law is the ratio of means; the mean of the ratio differs by O(1/D)
    assert abs(float(cosines.mean()) - law) < 4 * float(cosines.std()) / 200**0.5 + 0.5 / dim
    info = estimator(from_function(loss), zeros(dim), {}, torch.Generator()).info
    assert info["cosine_expected"] == pytest.approx(law)


def test_t1_orthogonal_nes_is_exact_at_full_rank():
    dim = 12
    g, loss = linear(dim, f0=5.0)
    for n, law in ((3, 0.5), (12, 1.0), (24, 1.0)):
        got = draws(NES(samples=n, orthogonal=True), loss, zeros(dim), 400)
        square = (got @ g) ** 2 / ((got**2).sum(1) * (g @ g))
        assert float(square.mean()) == pytest.approx(
            law**2, abs=4 * float(square.std()) / 20 + 1e-12
        )
        if n >= dim:
            torch.testing.assert_close(got, g.expand(400, -1), rtol=1e-10, atol=1e-12)


def test_t1_variance_of_vanilla_nes_grows_with_the_squared_loss():
    dim, n, sigma, f0 = 10, 40, 0.5, 3.0
    g, loss = linear(dim, f0)
    got = draws(NES(samples=n, sigma=sigma, antithetic=False), loss, zeros(dim), 2000)
    gg = float(g @ g)
    law = (f0**2 * dim / sigma**2 + (dim + 1) * gg) / (n * gg)
    assert relative_variance(got, g) == pytest.approx(law, rel=0.06)


def test_mean_baseline_is_the_leave_one_out_baseline():
    dim, n, sigma = 5, 7, 0.2
    g, loss = linear(dim, 2.0)
    estimator = NES(samples=n, sigma=sigma, antithetic=False, baseline="mean")
    got = estimator(from_function(loss), zeros(dim), {}, torch.Generator().manual_seed(0)).grad["w"]
    e = torch.randn(64, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:n]
    f = (sigma * e) @ g + 2.0
    naive = sum((f[i] - (f.sum() - f[i]) / (n - 1)) * e[i] for i in range(n)) / (n * sigma)
    torch.testing.assert_close(got, naive, rtol=1e-10, atol=1e-12)


def test_t2_covariance_of_nes_on_a_quadratic_is_its_formula(quadratic):
    n, count = 16, 3000
    got = draws(NES(samples=n, sigma=0.7), quadratic, quadratic.point, count)
    g = quadratic.grad
    law = ((g @ g) * torch.eye(len(g), dtype=torch.float64) + torch.outer(g, g)) / n
    measured = torch.cov(got.T)
    # standard error of a covariance entry, gaussian to leading order
    error = ((law.diagonal()[:, None] * law.diagonal() + law**2) / count).sqrt()
    assert ((measured - law).abs() <= 5 * error).all()


def rosenbrock(a=1.0, b=100.0):
    return lambda p: (a - p["w"][0]) ** 2 + b * (p["w"][1] - p["w"][0] ** 2) ** 2


def test_t3_mean_of_nes_is_the_smoothed_gradient_of_rosenbrock():
    x, y, a, b, sigma = 0.3, -0.2, 1.0, 100.0, 0.1
    point = {"w": torch.tensor([x, y], dtype=torch.float64)}
    got = draws(NES(samples=4000, sigma=sigma), rosenbrock(a, b), point, 60)
    plain = [-2 * (a - x) - 4 * b * x * (y - x * x), 2 * b * (y - x * x)]
    law = torch.tensor([plain[0] + 12 * b * sigma**2 * x, plain[1] - 2 * b * sigma**2])
    error = got.std(0) / 60**0.5
    assert ((got.mean(0) - law).abs() <= 4 * error).all()
    # the plain gradient is many standard errors away, so the test can tell the two apart
    assert ((got.mean(0) - torch.tensor(plain)).abs() > 8 * error).all()


def test_t4_mean_of_nes_is_the_smoothed_gradient_of_a_sign_unit():
    x = torch.tensor([0.6, -1.1, 0.3], dtype=torch.float64)
    w = torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64)
    sigma = 0.4
    got = draws(NES(samples=2000, sigma=sigma), lambda p: surrogate.sign(p["w"] @ x), {"w": w}, 60)
    z = float(w @ x / (sigma * x.norm()))
    law = 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * x / (sigma * x.norm())
    assert ((got.mean(0) - law).abs() <= 4 * got.std(0) / 60**0.5).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": 0}, {"sigma": -1}, {"sigma": "abc"}, {"sigma": math.nan}, {"sigma": math.inf},
        {"shaping": "ranks", "antithetic": False, "baseline": "mean"}, {"gap": 0},
        {"samples": 0}, {"samples": 1.5}, {"baseline": "mean"}, {"unknown": 1},
        {"baseline": "mean", "antithetic": False, "samples": 1},
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValidationError):
        NES(**wrong)


def test_orthogonal_nes_smooths_over_a_ball():
    """In one dimension the directions are +-1, so the estimate is CDG with epsilon = sigma."""
    f = from_function(lambda p: surrogate.hard_sign(p["w"]).sum())
    nes = NES(sigma=0.5, samples=8, orthogonal=True)
    for w, slope in [(0.2, 2.0), (0.7, 0.0)]:
        at = {"w": torch.tensor([w], dtype=torch.float64)}
        got = nes(f, at, {}, torch.Generator().manual_seed(0)).grad["w"]
        assert float(got) == pytest.approx(slope)
    assert (nes.target, NES().target) == ("ball", "gaussian")


def test_nes_with_ranks_has_a_fixed_length_and_its_own_variance():
    dim, n, sigma, count = 10, 400, 0.2, 120
    g = torch.randn(dim, generator=torch.Generator().manual_seed(10**6), dtype=torch.float64)
    for antithetic in (True, False):
        nes = NES(samples=n, sigma=sigma, shaping="ranks", antithetic=antithetic)
        got = draws(nes, lambda p: p["w"] @ g + 7.0, zeros(dim), count)
        along, law = got @ g / g.norm(), 1 / (2 * math.sqrt(math.pi) * sigma)
        assert float(along.mean()) == pytest.approx(law, rel=0.01)
        relative = ((got - law * g / g.norm()) ** 2).sum(1) / law**2 * n
        theory = math.pi * dim / 3 + 2 / math.sqrt(3) - 1
        assert abs(float(relative.mean()) - theory) <= 4 * float(relative.std()) / count**0.5
    assert nes.target == "none"


def test_utilities_weight_the_better_half_of_the_points():
    g, loss = linear(3)
    e = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:6]
    nes = NES(samples=6, sigma=0.5, shaping="utilities", antithetic=False)
    got = nes(from_function(loss), zeros(3), {}, torch.Generator().manual_seed(0)).grad["w"]
    raw = [max(0.0, math.log(4) - math.log(k)) for k in range(1, 7)]
    u = [r / sum(raw) - 1 / 6 for r in raw]  # best first
    order = (e @ g).argsort()
    naive = -sum(u[k] * e[order[k]] for k in range(6)) / 0.5
    torch.testing.assert_close(got, naive, rtol=1e-10, atol=1e-12)


def test_equal_losses_share_a_rank():
    got = _shaping.ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(got * 4 + 2, torch.tensor([3.0, 0, 3, 1, 3], dtype=torch.float64))


def test_auto_takes_the_largest_sigma_within_the_smoothing_gap():
    """On f = |w|^2 + 1 smoothing adds sigma^2 D, which may be at most the share gap of f."""
    f = from_function(lambda p: p["w"].square().sum() + 1.0, vectorized=True)
    # D = 4: 4 sigma^2 < 0.02 gives 0.05 on the grid, and a gap of 0.2 gives 0.2
    for gap, sigma in ((0.02, 0.05), (0.2, 0.2)):
        got = NES("auto", gap=gap)(f, zeros(4), {}, torch.Generator().manual_seed(0))
        assert got.state == {"sigma": sigma} and got.info["sigma"] == sigma
        assert got.info["gap"] == pytest.approx(4 * sigma**2, rel=0.3)
        tried = 2 + list(_scale.GRID).index(sigma)
        assert got.evals == 1001 + 64 * tried
        again = NES("auto", gap=gap)(f, zeros(4), got.state, torch.Generator().manual_seed(0))
        assert again.evals == 1001 and again.state == got.state and "gap" not in again.info


def test_auto_takes_the_smallest_sigma_when_the_loss_is_0():
    f = from_function(lambda p: p["w"].abs().sum(), vectorized=True)
    got = NES("auto", samples=4)(f, zeros(2), {}, torch.Generator().manual_seed(0))
    assert got.state["sigma"] == _scale.GRID[0] and math.isfinite(got.info["gap"])


def test_orthogonal_nes_reports_how_many_directions_the_last_set_lacks():
    dim, n = 12, 30
    g, loss = linear(dim)
    got = draws(NES(samples=n, orthogonal=True), loss, zeros(dim), 400, start=1000)
    square = (got**2).sum(1) / (g @ g)
    info = NES(samples=n, orthogonal=True)(from_function(loss), zeros(dim), {}, torch.Generator())
    law = info.info["cosine_expected"]
    assert law == pytest.approx(30 / math.sqrt(30**2 + 6 * 6)) and info.info["cut"] == 6
    assert float(square.mean()) == pytest.approx(1 / law**2, abs=4 * float(square.std()) / 20)
