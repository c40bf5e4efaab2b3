"""Tests of sensitivity to bits and of bit allocation on separable losses with closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from sa.analysis import _allocation, _proxy
from sa.analysis.sensitivity_bits import SensitivityBits
from sa.dataset.digits import Digits
from sa.dataset.point import Point
from sa.model.fc import FC
from sa.model.mlp import MLP
from sa.model.quadratic import Quadratic
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import stream
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.quantizer.uniform import Uniform
from sa.types import Batch, Estimate, Slots

BITS = (2, 3, 4, 8)
WEIGHTS = {"a": 1.0, "b": 30.0, "c": 5.0}


@pytest.fixture
def bowl(generator):
    """Return sum_l c_l |w_l - w*_l|^2/2 and its minimum w*, with layers of 12, 30 and 8 weights."""
    draw = lambda *s: torch.randn(s, generator=generator, dtype=torch.float64)  # noqa: E731
    point = {"a": draw(3, 4), "b": draw(5, 6), "c": draw(2, 4)}
    least = {k: v.clone() for k, v in point.items()}
    f = from_function(
        lambda p: sum(c * (p[k] - least[k]).square().sum() / 2 for k, c in WEIGHTS.items())
    )
    return f, point


def run(f, point, grad=None, **settings):
    look = SensitivityBits(Uniform(), bits=BITS, **settings)
    zero = {k: torch.zeros_like(v) for k, v in point.items()}
    got = Estimate(f.value(point), grad or zero, 1.0)
    out = look(f, point, got, torch.Generator().manual_seed(0))
    return {k.removeprefix("sensitivity_bits/"): v for k, v in out.items()}


def test_the_loss_of_a_quantized_layer_is_half_its_curvature_times_its_error(bowl):
    f, point = bowl
    out = run(f, point)
    for name, c in WEIGHTS.items():
        errors = [float((Uniform(b)(point[name]) - point[name]).square().sum()) for b in BITS]
        assert out[f"{name}/loss"] == pytest.approx([c / 2 * e for e in errors])
        assert out[f"{name}/error"] == pytest.approx(errors)
        # the Hessian is c times the identity, so every draw of Hutchinson's estimate is exact
        assert out[f"{name}/trace"] == pytest.approx(c * point[name].numel(), rel=1e-4)
        assert out[f"{name}/curvature"] == pytest.approx(out[f"{name}/loss"], rel=1e-4)
    assert out["kendall/curvature"] == out["spearman/curvature"] == pytest.approx(1)
    assert out["kendall_layers/curvature"] == pytest.approx(1)
    assert math.isnan(out["kendall/gradient"]) and out["kendall/error"] < 0.95


def test_layers_of_a_separable_loss_do_not_interact(bowl):
    f, point = bowl
    assert run(f, point)["interaction"] == pytest.approx(0, abs=1e-12)
    coupled = from_function(lambda p: f.value(p) * (1 + p["a"].sum() ** 2))
    out = run(coupled, point)
    low = {n: Uniform(2)(point[n]) for n in "ab"}
    both = float(coupled.value(point | low))
    one = [float(coupled.value(point | {n: low[n]})) for n in "ab"]
    assert np.reshape(out["pairs"], (3, 3))[0, 1] == pytest.approx(both - sum(one))
    assert out["interaction"] > 0.01


@pytest.mark.parametrize("budget", [2.0, 2.5, 3.1, 4.7, 8.0])
def test_the_allocation_of_a_separable_loss_equals_an_exhaustive_search(bowl, budget):
    f, point = bowl
    out = run(f, point, budget=budget, anneal=200)
    sizes = [point[k].numel() for k in "abc"]
    best = math.inf
    for choice in itertools.product(BITS, repeat=3):
        if sum(n * b for n, b in zip(sizes, choice, strict=True)) <= budget * sum(sizes):
            low = {k: Uniform(b)(point[k]) for k, b in zip("abc", choice, strict=True)}
            best = min(best, float(f.value(low)))
    assert out["ilp/loss"] == pytest.approx(best) == pytest.approx(out["anneal/loss"])
    assert out["greedy/loss"] >= best * (1 - 1e-12) and out["even/loss"] >= out["ilp/loss"]
    for how in ("even", "greedy", "ilp", "anneal"):
        mean = sum(n * b for n, b in zip(sizes, out[f"{how}/bits"], strict=True)) / sum(sizes)
        assert out[f"{how}/spent"] == pytest.approx(mean) and mean <= budget + 1e-9


def test_no_point_is_evaluated_twice(bowl):
    f, point = bowl
    calls = []
    counted = from_function(lambda p: calls.append(1) or f.value(p))
    out = run(counted, point, probes=0, anneal=100)
    # one more call is for the value in the estimate
    assert len(calls) == out["points"] + 1 < out["asked"]


def test_the_gradient_predicts_a_linear_loss_exactly(bowl):
    _, point = bowl
    slope = {k: torch.ones_like(v) / (1 + i) for i, (k, v) in enumerate(point.items())}
    f = from_function(lambda p: sum((slope[k] * p[k]).sum() for k in p))
    out = run(f, point, grad=slope)
    for k in point:
        rises = [x - out["base"] for x in out[f"{k}/loss"]]
        assert out[f"{k}/gradient"] == pytest.approx(rises)
        assert out[f"{k}/curvature"] == pytest.approx([0] * len(BITS), abs=1e-6)
    assert out["spearman/gradient"] == pytest.approx(1) == pytest.approx(out["kendall/gradient"])


def test_annealing_finds_a_joint_change_that_greedy_steps_miss(generator):
    """Changing the bits of one layer raises the loss, changing those of both lowers it."""
    table = np.outer([1.0, 1.0], [2.0, 4.0, 8.0])
    joint = {(1, 1): 1.0, (2, 0): 0.2, (0, 2): 0.9}
    losses = _allocation.Losses(lambda c: joint.get(c, 3.0 + (c == (0, 0))))
    found = _allocation.anneal(losses, table, 10.0, (1, 1), 100, generator)
    assert found == (2, 0) and len(losses.known) <= 9


def test_the_parameters_of_a_formula_are_its_layers():
    p = prepare(Task(model=Quadratic(size=6), dataset=Point()), 0)
    f = p.objective(p.batch(0))
    out = run(f, p.params)
    low = Uniform(2)(p.params["point"])
    assert out["layers"] == "point"
    assert out["point/loss"][0] == pytest.approx(float(f.value({"point": low})))
    assert out["ilp/bits"] == [min(BITS, key=lambda b: (b > 4, out["point/loss"][BITS.index(b)]))]
    with pytest.raises(ValueError, match="price=bops: point.*price=weights"):
        run(f, p.params, price="bops")


def test_price_bops_counts_weight_bits_times_input_bits_of_each_layer(generator):
    """fc1 reads 64 inputs of 32 bits and later layers read single bits, so fc1 gets fewest bits."""
    slots = Slots(Identity(), Sign())
    rows = Batch(torch.randn(32, 1, 8, 8, generator=generator, dtype=torch.float64),
                 torch.randint(10, (32,), generator=generator))  # fmt: skip
    task = Task(model=MLP(quantizer=slots, hidden=(16, 8)), dataset=Digits())
    p = prepare(task, 0, type(task.dataset.load(torch.Generator()))(rows, rows))
    out = run(p.objective(rows), p.params, price="bops", budget=2.2, probes=1)
    unit = [64 * 16 * 32, 16 * 8, 8 * 10]
    for how in ("greedy", "ilp"):
        spent = sum(u * b for u, b in zip(unit, out[f"{how}/bits"], strict=True))
        assert out[f"{how}/spent"] == pytest.approx(spent / sum(unit)) and spent <= 2.2 * sum(unit)
    assert out["greedy/bits"][0] == out["ilp/bits"][0] == 2 and "greedy/heldout" in out


def test_the_hessian_trace_of_a_sign_network_is_that_of_its_last_layer():
    """Moving hidden weights makes the loss jump, so their second derivatives are 0."""
    task = Task(model=MLP(quantizer=Slots(Identity(), Sign()), hidden=(6, 5)), dataset=Digits())
    p = prepare(task, 0)
    f = p.objective(p.batch(0))
    got = _proxy.traces(f, p.params, ["fc2.weight", "head.weight"], 200, stream(0))
    assert got["fc2.weight"] == 0.0

    def loss(w):
        return f.rows(p.params | {"head.weight": w}, f.batch).mean()

    head = p.params["head.weight"]
    hessian = torch.autograd.functional.hessian(loss, head).reshape(head.numel(), -1)
    off = (hessian - hessian.diag().diag()).square().sum()  # the variance of v.Hv is twice this
    error = 4 * float((2 * off / 200).sqrt())
    assert got["head.weight"] == pytest.approx(float(hessian.trace()), abs=error)
    assert error < 0.5 * float(hessian.trace())


def test_quantized_weights_are_refused_and_quantized_activations_are_accepted():
    def structure(weight):
        slots = Slots(weight, Sign())
        return Task(model=MLP(quantizer=slots, hidden=(4, 4)), dataset=Digits()).structure()

    look = SensitivityBits(Uniform())
    look.requires(structure(Identity()))
    look.requires(Task(model=FC(shape=(1, 8, 8)), dataset=Digits()).structure())
    with pytest.raises(ValueError, match="fc2.weight are quantized already.*weight=none"):
        look.requires(structure(Uniform(4)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"bits": (4, 2)}, "different widths, ascending"),
        ({"bits": (1, 4)}, "symmetric levels need 2 or more"),
        ({"budget": 1.5}, "budget=1.5: no layer has fewer than 2 bits"),
        ({"pair_bits": 5}, "pair_bits=5: expected one of"),
        ({"quantizer": torch.tanh}, "its bits cannot be set"),
    ],
)
def test_settings_that_do_not_work_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        SensitivityBits(**{"quantizer": Uniform()} | wrong)
