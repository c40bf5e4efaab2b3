"""Analyses of whole trainings: lines between two, and what a function's network has learnt."""

import math

import pytest
import torch
from conftest import component

from sa import train
from sa.analysis.function_curve import FunctionCurve
from sa.analysis.interpolation import Interpolation, mixed
from sa.dataset.chebyshev import Chebyshev
from sa.dataset.digits import Digits
from sa.dataset.sinc import Sinc
from sa.estimator.ste import STE
from sa.task import Task
from sa.types import Estimate


def small(seed, norm="before", **settings):
    model = component("model", "cnn2", shape=[1, 8, 8], channels=[2, 3], norm=norm)
    return Task(model=model, dataset=Digits(), batch_size=100, **settings).prepare(seed)


def trained(problem, steps=20):
    """(params, buffers) after a few steps of Adam."""
    rows = train.loop(
        problem, STE("clipped"), lambda p: torch.optim.Adam(p, 0.01), {}, steps=steps,
        progress=train.start(problem),
    )  # fmt: skip
    *_, (_, last) = rows
    return tuple({k: v.clone() for k, v in x.items()} for x in (last.params, last.buffers))


def line(problem, ends, **settings):
    problem.ends = ends
    f = problem.objective(problem.batch(0))
    nothing = Estimate(torch.zeros(()), {}, 0.0)
    out = Interpolation(**settings)(f, problem.params, nothing, torch.Generator())
    return {k.removeprefix("interpolation/"): v for k, v in out.items()}


def test_the_ends_are_the_very_points_and_variances_stay_positive():
    torch.manual_seed(0)
    a = {"w": torch.randn(50), "running_var": torch.rand(9), "n": torch.tensor(3)}
    b = {"w": 1e9 * torch.randn(50), "running_var": 5 * torch.rand(9), "n": torch.tensor(8)}
    assert all(torch.equal(mixed(a, b, 0)[k], a[k]) for k in a)
    assert all(torch.equal(mixed(a, b, 1.0)[k], b[k]) for k in a)
    for alpha in (-1, -0.5, 0.3, 2):
        got = mixed(a, b, alpha)
        assert (got["running_var"] >= 0).all() and got["n"] == 3
        torch.testing.assert_close(got["w"], torch.lerp(a["w"], b["w"], alpha))
    assert (mixed(a, b, -1)["running_var"] == 0).any()  # what would have been negative


@pytest.mark.parametrize("recalibrate", [False, True])
def test_a_line_between_two_trainings_with_batchnorm(recalibrate):
    ends = [trained(small(seed)) for seed in (0, 1)]
    problem = small(0)
    out = line(problem, ends, points=4, recalibrate=recalibrate)
    assert out["alpha"] == [k / 4 for k in range(-4, 9)]
    for at, (name, end) in zip((4, 8), zip(("first", "second"), ends, strict=True), strict=True):
        assert out[f"{name}/train/loss"] == problem.evaluate(*end)["train/loss"]
        if recalibrate:
            fresh = problem.recalibrate(end[0])
            assert out["train/loss"][at] == problem.evaluate(end[0], fresh)["train/loss"]
        else:  # bit for bit what the training itself reported
            assert out["train/loss"][at] == out[f"{name}/train/loss"]
    apart = math.sqrt(sum(float((ends[1][0][k] - v).square().sum()) for k, v in ends[0][0].items()))
    assert out["distance"] == pytest.approx(apart)
    assert all(math.isfinite(x) for x in out["train/loss"])
    assert out["barrier"] > 0.05 and out["worst"] == max(out["train/loss"])
    assert 0 <= min(out["test/accuracy"]) <= max(out["test/accuracy"]) <= 1


def test_recalibration_tames_the_far_end():
    ends = [trained(small(seed)) for seed in (0, 1)]
    far = [line(small(0), ends, points=2, recalibrate=r)["train/loss"][0] for r in (False, True)]
    assert far[0] > 3 * far[1]


def test_a_convex_loss_has_no_barrier_and_a_parabola_on_its_line():
    model = component("model", "mlp_relu", hidden=[])  # linear
    problem = Task(model=model, dataset=Chebyshev(degree=2)).prepare(0)
    points = [{k: torch.full_like(v, x) for k, v in problem.params.items()} for x in (-1.0, 2.0)]
    out = line(problem, [(p, {}) for p in points], points=5)
    assert out["barrier"] == pytest.approx(0, abs=1e-12)
    second = torch.tensor(out["train/loss"]).double().diff().diff()
    torch.testing.assert_close(second, second[:1].expand_as(second), rtol=1e-4, atol=1e-6)


def test_a_line_that_misses_an_end_is_refused():
    with pytest.raises(ValueError, match="must hold both ends"):
        Interpolation(low=0.5)


def test_a_function_curve_of_known_networks():
    model = component("model", "mlp_relu", hidden=[])
    problem = Task(model=model, dataset=Chebyshev(degree=1)).prepare(0)  # y = x
    f, analysis = problem.objective(problem.batch(0)), FunctionCurve(points=7)
    nothing = Estimate(torch.zeros(()), {}, 0.0)

    def seen(weight, bias):
        point = {"head.weight": torch.tensor([[weight]]), "head.bias": torch.tensor([bias])}
        point = {k: v.double() for k, v in point.items()}
        out = analysis(f, point, nothing, torch.Generator())
        return {k.removeprefix("function_curve/"): v for k, v in out.items()}

    right = seen(1.0, 0.25)
    assert right["rmse"] == pytest.approx(0.25) and right["worst"] == pytest.approx(0.25)
    assert right["spread"] == pytest.approx(1) and right["collapsed"] == 0
    assert len(right["x"]) == 7 and right["x"] == sorted(right["x"]) == right["truth"]
    assert right["value"] == pytest.approx([x + 0.25 for x in right["x"]])
    dead = seen(0.0, 0.5)
    assert dead["collapsed"] == 1 and dead["spread"] == 0
    with pytest.raises(ValueError, match="Digits is none; take dataset=sinc"):
        analysis.takes(Digits())


@pytest.mark.parametrize(("pieces", "floor"), [(6, 0.1029), (11, 0.0552)])
def test_the_best_function_of_few_pieces_on_a_sinc(pieces, floor):
    """What `experiment=binary_depth` holds networks of sign units against: Bellman's recursion."""
    y = Sinc().load(torch.Generator()).test.targets[:, 0]
    n = len(y)
    sums, squares = (torch.cat([y.new_zeros(1), v.cumsum(0)]) for v in (y, y.square()))
    at = torch.arange(n + 1)
    many = (at - at[:, None]).clamp(min=1)
    cost = squares - squares[:, None] - (sums - sums[:, None]).square() / many  # rows i to j - 1
    cost = torch.where(at >= at[:, None], cost, math.inf)
    best = cost[0]
    for _ in range(pieces - 1):
        best = (best[:, None] + cost).min(0).values
    rmse = math.sqrt(best[n] / n)
    assert floor <= rmse < floor + 1e-4


@pytest.mark.parametrize(("norm", "names"), [
    ("before", ["conv1.bias", "conv2.bias"]), ("after", []), ("none", []),
])  # fmt: skip
def test_a_bias_before_batchnorm_is_redundant(norm, names):
    for dtype in ("float64", "float32"):
        assert small(0, norm, dtype=dtype).redundant() == names


def test_the_fitted_share_is_of_the_spoilt_rows_alone():
    def problem(kind):
        model = component("model", "fc_relu", shape=[1, 8, 8], hidden=[])
        return Task(model=model, dataset=Digits(corruption=kind)).prepare(0)

    p, clean = problem("partial"), problem("none").data
    apart = p.data.train.targets != clean.train.targets
    assert torch.equal(p.spoilt, apart) and 500 < p.spoilt.sum() < 800
    constant = {k: torch.zeros_like(v) for k, v in p.params.items()}
    constant["head.bias"][4] = 1.0  # says four, always
    got = p.evaluate(constant)
    assert got["train/fitted"] == float((p.data.train.targets[apart] == 4).double().mean())
    assert "train/fitted" not in problem("none").evaluate(constant)
    assert "train/fitted" not in problem("random_pixels").evaluate(constant)
