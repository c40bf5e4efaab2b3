"""Tests of losses that are formulas: values, gradients and differences against closed forms."""

import pytest
import torch
from conftest import component, studied

from sa.dataset.digits import Digits
from sa.dataset.point import Point
from sa.estimator.nes import NES
from sa.objective.prepare import prepare
from sa.objective.task import Mismatch, Task
from sa.params import stream


def problem(name, **settings):
    p = prepare(Task(model=component("model", name, **settings), dataset=Point()), 0)
    return p, p.objective(p.batch(0)), p.params["point"]


def valley(w, form, a, b):
    """Return Rosenbrock's value, its gradient, and the x of every pair (0 elsewhere)."""
    first = range(0, len(w) - 1, 2 if form == "pairs" else 1)
    value, grad, x = 0.0, torch.zeros_like(w), torch.zeros_like(w)
    for i in first:
        gap = w[i + 1] - w[i] ** 2
        value += (a - w[i]) ** 2 + b * gap**2
        grad[i] += -2 * (a - w[i]) - 4 * b * w[i] * gap
        grad[i + 1] += 2 * b * gap
        x[i] = w[i]
    return value, grad, x


@pytest.mark.parametrize("form", ["pairs", "chain"])
def test_rosenbrock_has_its_closed_form_value_gradient_and_differences(form):
    p, f, w = problem("rosenbrock", size=6, form=form, a=1.5, b=20.0)
    value, grad, x = valley(w, form, 1.5, 20.0)
    assert float(f.value(p.params)) == pytest.approx(float(value), rel=1e-12)
    torch.testing.assert_close(f.value_and_grad(p.params)[1]["point"], grad)
    for eps in (0.1, 0.5):
        got = f.differences(p.params, [eps])
        assert got.path == "brute"
        torch.testing.assert_close(got.grads[0]["point"], grad + 4 * 20 * eps**2 * x)


def test_rosenbrock_is_0_at_its_minimum_and_its_differences_are_0_at_the_stated_point():
    p, f, _ = problem("rosenbrock", size=4, form="chain")
    assert float(f.value({"point": torch.ones(4, dtype=torch.float64)})) == 0
    # the differences with eps 0.1 are 0 at x = a / (1 + 2 b eps^2), y = x^2
    p, f, _ = problem("rosenbrock")
    x = 1 / 3
    at = {"point": torch.tensor([x, x * x], dtype=torch.float64)}
    assert float(f.differences(at, [0.1]).grads[0]["point"].abs().max()) < 1e-9


def test_mean_of_nes_on_rosenbrock_is_its_smoothed_gradient():
    p, f, w = problem("rosenbrock")
    _, grad, x = valley(w, "pairs", 1.0, 100.0)
    sigma = 0.3
    expected = (
        grad + torch.tensor([12 * 100 * sigma**2, 0]) * x - torch.tensor([0, 2 * 100 * sigma**2])
    )
    draws = torch.stack([
        NES(sigma=sigma, samples=2000)(f, p.params, {}, stream(0, i)).grad["point"]
        for i in range(40)
    ])  # fmt: skip
    error = draws.std(0) / 40**0.5
    assert ((draws.mean(0) - expected).abs() < 4 * error).all()


def test_quadratic_has_its_stated_spectrum():
    p, f, w = problem("quadratic", size=6, condition=50.0, rank=4)
    a, c = p.buffers["matrix"], p.buffers["centre"]
    torch.testing.assert_close(f.value_and_grad(p.params)[1]["point"], a @ (w - c))
    expected = torch.tensor([1, 50 ** (-1 / 3), 50 ** (-2 / 3), 1 / 50, 0, 0])
    got = torch.linalg.eigvalsh(a).flip(0)
    torch.testing.assert_close(got, expected.double(), rtol=1e-6, atol=1e-12)
    assert float(f.value({"point": c})) == 0
    torch.testing.assert_close(f.differences(p.params, [0.7]).grads[0]["point"], a @ (w - c))


def test_linear_form_has_its_stated_slope_and_offset():
    p, f, w = problem("linear_form", size=5, norm=3.0, offset=2.0)
    g = p.buffers["slope"]
    assert float(f.value(p.params)) == 2.0 and not w.any()
    assert float(g.norm()) == pytest.approx(3.0)
    torch.testing.assert_close(f.value_and_grad(p.params)[1]["point"], g)


def test_values_of_many_points_equal_a_loop_and_differences_are_computed_in_float64():
    model = component("model", "quadratic", size=5)
    p = prepare(studied(model=model, dataset=Point(), dtype="float32"), 0)
    f = p.objective(p.batch(0))
    stack = torch.randn(4, 5, generator=stream(3))
    looped = torch.stack([f.value({"point": w}) for w in stack])
    torch.testing.assert_close(f.values({"point": stack}), looped)
    # in float64 so small an eps causes no cancellation
    exact = f.differences(p.params, [1e-6]).grads[0]["point"]
    torch.testing.assert_close(f.value_and_grad(p.params)[1]["point"], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "data", "criterion", "told"),
    [
        (
            "rosenbrock",
            Point(),
            "mse",
            "mse does not work for a model that is a loss itself; use criterion=auto",
        ),
        ("rosenbrock", Point(), "ce", "a model that is a loss itself"),
        ("mlp", Digits(), "value", "value works only for models"),
        ("rosenbrock", Digits(), "auto", "dataset=point"),
        ("mlp", Point(), "auto", r"\(0,\)"),
    ],
)
def test_models_datasets_and_criteria_that_do_not_fit_together_are_refused(
    model, data, criterion, told
):
    task = Task(model=component("model", model), dataset=data, criterion=criterion)
    with pytest.raises(Mismatch, match=told):
        task.check()


def test_a_formula_is_reported_as_no_chain():
    p, _, _ = problem("quadratic")
    assert "formula" in p.structure.why_not_a_chain
