"""Tests of CDG against its closed forms (truths T2, T3, T4 and T13 of docs/truths.md)."""

import math

import pytest
import torch
from test_laws import problem, run

from sa import surrogate
from sa.estimator.cdg import CDG
from sa.estimator.ste import STE
from sa.objective.function import from_function
from sa.params import flatten


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 5.0])
def test_t2_cdg_is_the_gradient_of_a_quadratic_for_any_epsilon(quadratic, epsilon):
    got = run(CDG(epsilon), from_function(quadratic), quadratic.point)
    torch.testing.assert_close(flatten(got.grad), quadratic.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_t3_cdg_adds_4_b_epsilon_squared_x_to_the_gradient_of_rosenbrock(epsilon):
    x, y, b = 0.3, -0.2, 100.0
    point = {"w": torch.tensor([x, y], dtype=torch.float64)}
    loss = from_function(lambda p: (1 - p["w"][0]) ** 2 + b * (p["w"][1] - p["w"][0] ** 2) ** 2)
    plain = [-2 * (1 - x) - 4 * b * x * (y - x * x), 2 * b * (y - x * x)]
    law = torch.tensor([plain[0] + 4 * b * epsilon**2 * x, plain[1]], dtype=torch.float64)
    torch.testing.assert_close(run(CDG(epsilon), loss, point).grad["w"], law)


def test_cdg_of_one_sign_is_1_over_epsilon_within_epsilon_of_0():
    w = torch.tensor([0.05, -0.05, 0.0, 0.1, -0.1, 0.3], dtype=torch.float64)
    f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    got = run(CDG(epsilon=0.1), f, {"w": w}).grad["w"]
    # sign(0) = +1 makes the window half-open: w + eps crosses 0 at w = -eps, and w - eps does not
    # cross 0 at w = eps
    torch.testing.assert_close(got, torch.tensor([10.0, 10, 10, 0, 10, 0], dtype=torch.float64))


def test_t4_cdg_is_the_derivative_of_the_box_smoothed_sign():
    # d/dw E sign(w + U[-eps, eps]) = 1/eps for |w| < eps, and CDG is this derivative
    eps, w = 0.25, 0.1
    smoothed = lambda v: max(-1.0, min(1.0, v / eps))  # noqa: E731
    h = 1e-6
    slope = (smoothed(w + h) - smoothed(w - h)) / (2 * h)
    f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    got = run(CDG(eps), f, {"w": torch.tensor([w], dtype=torch.float64)}).grad["w"]
    assert float(got) == pytest.approx(slope)


def test_cdg_reports_whether_it_took_the_fast_or_the_brute_force_path(quadratic):
    p = problem()
    f = p.objective(p.batch(0))
    assert run(CDG(), f, p.params).info["path"] == "fast"
    assert run(CDG(path="brute"), f, p.params).info["path"] == "brute"
    assert run(CDG(), from_function(quadratic), quadratic.point).info["path"] == "brute"
    with pytest.raises(ValueError, match="plain function"):
        run(CDG(path="fast"), from_function(quadratic), quadratic.point)


def test_t13_ste_is_the_true_gradient_in_the_last_linear_layer():
    p = problem()
    f = p.objective(p.batch(0))
    ste, cdg = run(STE("clipped"), f, p.params), run(CDG(0.1), f, p.params)
    torch.testing.assert_close(ste.grad["head.weight"], cdg.grad["head.weight"], rtol=1e-9, atol=0)
    other = torch.nn.functional.cosine_similarity(
        ste.grad["fc1.weight"].flatten(), cdg.grad["fc1.weight"].flatten(), dim=0
    )
    assert float(other) < 0.999  # STE is not exact in the first layer, so the test can fail


def test_differences_of_a_float32_network_are_computed_in_float64():
    p32, p64 = problem(dtype="float32"), problem()
    got = run(CDG(1e-3), p32.objective(p32.batch(0)), p32.params)
    # the same float32 numbers are evaluated in float64
    exact = {k: v.double() for k, v in p32.params.items()}
    f = p64.objective(p32.batch(0).to(torch.float64))
    truth = run(CDG(1e-3), f, exact)
    torch.testing.assert_close(flatten(got.grad).double(), flatten(truth.grad), rtol=1e-6, atol=0)
    assert math.isfinite(float(got.value))
