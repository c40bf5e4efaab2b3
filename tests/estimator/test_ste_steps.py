"""Tests of ste_steps: a path of straight-through steps, its budget, and where it ends."""

import math

import pytest
import torch
from test_laws import problem, run

from sa.estimator import _guide
from sa.estimator.ste_steps import STESteps
from sa.objective.function import from_function
from sa.params import flatten, unflatten


def test_one_step_has_the_length_of_the_budget_along_the_straight_through_gradient():
    p = problem()
    f = p.objective(p.batch(0))
    _, g = _guide.gradient(f, p.params, "poly", torch.Generator())
    got = run(STESteps(0.3, steps=1, surrogate="poly"), f, p.params)
    torch.testing.assert_close(flatten(got.grad), 0.3 * g / g.norm())
    assert got.info["length"] == pytest.approx(0.3)


def test_steps_end_where_descent_with_steps_of_equal_length_ends():
    p = problem()
    f = p.objective(p.batch(0))
    got = run(STESteps(0.8, steps=7), f, p.params)
    w = flatten(p.params)
    for _ in range(7):
        _, g = _guide.gradient(f, unflatten(w, p.params), "clipped", torch.Generator())
        w = w - 0.8 / 7 * g / g.norm()
    torch.testing.assert_close(flatten(p.params) - flatten(got.grad), w)
    after = float(f.value(unflatten(w, p.params)))
    assert after == pytest.approx(float(got.value) - got.info["decrease"], abs=1e-12)
    assert got.info["length"] == pytest.approx(float((w - flatten(p.params)).norm()))
    assert 0 < got.info["length"] < 0.8  # the path turns
    assert got.evals == 22


@pytest.mark.parametrize("k", [1, 2, 40])
def test_steps_around_the_origin_turn_by_their_closed_form(k):
    # f = -angle of w: g is tangential, so a step of length h at radius r turns by atan(h/r) and
    # ends at radius sqrt(r^2 + h^2). The more steps, the closer to the flow, which is the circle.
    f = from_function(lambda p: -torch.atan2(p["w"][1], p["w"][0]))
    got = run(STESteps(1.5, steps=k), f, {"w": torch.tensor([1.0, 0.0], dtype=torch.float64)})
    h = 1.5 / k
    angle = sum(math.atan(h / math.sqrt(1 + t * h**2)) for t in range(k))
    radius = math.sqrt(1 + k * h**2)
    assert got.info["decrease"] == pytest.approx(angle)
    length = math.sqrt(1 + radius**2 - 2 * radius * math.cos(angle))
    assert got.info["length"] == pytest.approx(length)


def test_a_step_without_a_finite_gradient_does_not_move():
    f = from_function(lambda p: p["w"].sqrt().sum())  # two steps of 0.8 lead from 1 to below 0
    got = run(STESteps(4.0, steps=5), f, {"w": torch.ones(1, dtype=torch.float64)})
    assert got.info["nonfinite"] == 3 and float(got.grad["w"]) == pytest.approx(1.6)
    none = run(STESteps(), f, {"w": -torch.ones(1, dtype=torch.float64)})
    assert none.info["nonfinite"] == 10 and none.grad["w"].isnan().all()
