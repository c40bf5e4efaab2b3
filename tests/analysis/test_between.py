"""Tests of analyses of trained networks: lines between two trainings, and function curves."""

import itertools
import math

import pytest
import torch
from conftest import component, studied

from sa.analysis._align import matched, permuted
from sa.analysis.function_curve import FunctionCurve
from sa.analysis.interpolation import Interpolation, mixed
from sa.dataset.chebyshev import Chebyshev
from sa.dataset.digits import Digits
from sa.dataset.sinc import Sinc
from sa.estimator.ste import STE
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.training import loop
from sa.types import Estimate


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def small(seed, norm="before", **settings):
    model = component("model", "cnn2", shape=[1, 8, 8], channels=[2, 3], norm=norm)
    return prepare(studied(model=model, dataset=Digits(), batch_size=100, **settings), seed)


def trained(problem, steps=20):
    """Return (params, buffers) after a few steps of Adam."""
    rows = loop.loop(
        problem, STE("clipped"), lambda p: torch.optim.Adam(p, 0.01), {}, steps=steps,
        progress=loop.start(problem),
    )  # fmt: skip
    *_, (_, last) = rows
    return tuple({k: v.clone() for k, v in x.items()} for x in (last.params, last.buffers))


def line(problem, ends, **settings):
    problem.evaluation.ends = ends
    f = problem.objective(problem.batch(0))
    nothing = Estimate(torch.zeros(()), {}, 0.0)
    out = Interpolation(**settings)(f, problem.params, nothing, torch.Generator())
    return {k.removeprefix("interpolation/"): v for k, v in out.items()}


def test_a_line_starts_and_ends_exactly_at_its_two_points_with_no_negative_variance():
    torch.manual_seed(0)
    a = {"w": torch.randn(50), "running_var": torch.rand(9), "n": torch.tensor(3)}
    b = {"w": 1e9 * torch.randn(50), "running_var": 5 * torch.rand(9), "n": torch.tensor(8)}
    assert all(torch.equal(mixed(a, b, 0)[k], a[k]) for k in a)
    assert all(torch.equal(mixed(a, b, 1.0)[k], b[k]) for k in a)
    for alpha in (-1, -0.5, 0.3, 2):
        got = mixed(a, b, alpha)
        assert (got["running_var"] >= 0).all() and got["n"] == 3
        torch.testing.assert_close(got["w"], torch.lerp(a["w"], b["w"], alpha))
    assert (mixed(a, b, -1)["running_var"] == 0).any()  # some would have been negative


@pytest.mark.parametrize("recalibrate", [False, True])
def test_the_ends_of_a_line_have_the_losses_of_the_two_trainings(recalibrate):
    ends = [trained(small(seed)) for seed in (0, 1)]
    problem = small(0)
    out = line(problem, ends, points=4, recalibrate=recalibrate)
    assert out["alpha"] == [k / 4 for k in range(-4, 9)]
    for at, (name, end) in zip((4, 8), zip(("first", "second"), ends, strict=True), strict=True):
        assert out[f"{name}/train/loss"] == problem.evaluation.evaluate(*end)["train/loss"]
        if recalibrate:
            fresh = problem.evaluation.recalibrate(end[0])
            assert out["train/loss"][at] == problem.evaluation.evaluate(end[0], fresh)["train/loss"]
        else:  # the same bits as the training itself reported
            assert out["train/loss"][at] == out[f"{name}/train/loss"]
    apart = math.sqrt(sum(float((ends[1][0][k] - v).square().sum()) for k, v in ends[0][0].items()))
    assert out["distance"] == pytest.approx(apart)
    assert all(math.isfinite(x) for x in out["train/loss"])
    assert out["barrier"] > 0.05 and out["worst"] == max(out["train/loss"])
    assert 0 <= min(out["test/accuracy"]) <= max(out["test/accuracy"]) <= 1


def test_recalibrating_batchnorm_lowers_the_loss_beyond_the_ends():
    ends = [trained(small(seed)) for seed in (0, 1)]
    far = [line(small(0), ends, points=2, recalibrate=r)["train/loss"][0] for r in (False, True)]
    assert far[0] > 3 * far[1]


def test_a_quadratic_loss_has_no_barrier_and_is_a_parabola_along_the_line():
    model = component("model", "mlp_relu", hidden=[])  # linear
    problem = prepare(Task(model=model, dataset=Chebyshev(degree=2)), 0)
    points = [{k: torch.full_like(v, x) for k, v in problem.params.items()} for x in (-1.0, 2.0)]
    out = line(problem, [(p, {}) for p in points], points=5)
    assert out["barrier"] == pytest.approx(0, abs=1e-12)
    second = torch.tensor(out["train/loss"]).double().diff().diff()
    torch.testing.assert_close(second, second[:1].expand_as(second), rtol=1e-4, atol=1e-6)


BINARY = {
    "_target_": "sa.types.Slots",
    "weight": {"_target_": "sa.quantizer.xnor.Xnor"},
    "activation": {"_target_": "sa.quantizer.sign.Sign"},
}
CHAINS = {
    "fc": ("fc_relu", {"shape": [1, 8, 8], "hidden": [9, 7]}),
    "conv": ("cnn2", {"shape": [1, 8, 8], "channels": [5, 6]}),
    "conv, norm after": ("cnn2", {"shape": [1, 8, 8], "channels": [5, 6], "norm": "after"}),
    "binary": ("mlp", {"shape": [1, 8, 8], "hidden": [9, 7], "quantizer": BINARY}),
    "binary, norm": ("mlp", {"shape": [1, 8, 8], "hidden": [9, 7], "norm": "batch"}),
    "binary conv": ("cnn", {"shape": [1, 8, 8], "channels": [5, 6], "head": "average"}),
}


@pytest.mark.parametrize("name, settings", CHAINS.values(), ids=CHAINS)
def test_a_network_and_its_permuted_copy_have_no_barrier_when_aligned(name, settings):
    model = component("model", name, **settings)
    problem = prepare(studied(model=model, dataset=Digits(), batch_size=100), 0)
    first = trained(problem, steps=5)
    second, layers = first, problem.structure.units
    assert len(layers) == 2 and problem.structure.why_not_permutable is None
    for at, units in enumerate(layers):
        order = torch.randperm(len(first[0][units.rows[0]]), generator=gen(at))
        second = tuple(permuted(x, units, order) for x in second)
    x = problem.data.test.inputs[:50]
    outputs = [problem.evaluation.outputs(p | b, x) for p, b in (first, second)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    for k, p in (first[0] | first[1]).items():
        assert p.shape == (second[0] | second[1])[k].shape
    short = {"low": 0.0, "high": 1.0, "points": 2, "recalibrate": False}
    apart = line(problem, [first, second], **short)
    assert apart["barrier"] > 0.01 and apart["distance"] > 0.1 and "moved" not in apart
    aligned = line(problem, [first, second], **short, align=True)
    assert aligned["barrier"] == pytest.approx(0, abs=1e-12) and aligned["distance"] == 0
    assert aligned["train/loss"][2] == aligned["train/loss"][0]  # both ends are the same network
    assert 0.5 < aligned["moved"] <= 1


def test_alignment_finds_the_best_permutation_of_one_layer_and_a_better_one_of_two():
    model = component("model", "mlp_relu", hidden=[5])
    ends = [prepare(Task(model=model, dataset=Chebyshev(degree=2)), s).params for s in (0, 1)]
    (units,) = prepare(Task(model=model, dataset=Chebyshev(degree=2)), 0).structure.units

    def inner(one, other):
        return float(sum((p * other[k]).sum() for k, p in one.items()))

    (order,) = matched(*ends, [units])
    tried = itertools.permutations(range(5))
    best = max(inner(ends[0], permuted(ends[1], units, torch.tensor(o))) for o in tried)
    assert inner(ends[0], permuted(ends[1], units, order)) == pytest.approx(best, rel=1e-12)
    problems = [small(seed) for seed in (0, 1)]
    first, second = (p.params for p in problems)
    layers, moved = problems[0].structure.units, second
    for units, order in zip(layers, matched(first, second, layers), strict=True):
        assert sorted(order.tolist()) == list(range(len(order)))
        moved = permuted(moved, units, order)
    assert inner(first, moved) > inner(first, second)
    assert all(torch.equal(o, torch.arange(len(o))) for o in matched(first, moved, layers))


@pytest.mark.parametrize(("name", "settings", "why"), [
    ("resnet32", {}, r"binds units together"),
    ("xnor_resnet18", {"shape": [1, 8, 8], "init_channels": 2}, r"binds units together"),
])  # fmt: skip
def test_networks_whose_units_cannot_be_permuted_are_refused(name, settings, why):
    task = Task(model=component("model", name, **settings), dataset=Digits())
    with pytest.raises(ValueError, match=f"align: layer.*{why}.*align=false"):
        Interpolation(align=True).requires(task.structure())
    Interpolation().requires(task.structure())
    point = Task(model=component("model", "rosenbrock"), dataset=component("dataset", "point"))
    with pytest.raises(ValueError, match="a formula, not a chain of layers.*align=false"):
        Interpolation(align=True).requires(point.structure())


def test_a_line_that_misses_an_end_is_refused():
    with pytest.raises(ValueError, match="low=-0.25 is none of the line's points.*0.1 apart"):
        Interpolation(low=-0.25, points=10)
    with pytest.raises(ValueError, match="must hold both ends"):
        Interpolation(low=0.5)


def test_function_curve_measures_error_and_spread_of_known_networks():
    model = component("model", "mlp_relu", hidden=[])
    problem = prepare(Task(model=model, dataset=Chebyshev(degree=1)), 0)  # y = x
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
def test_the_least_error_of_a_step_function_on_a_sinc_is_the_stated_floor(pieces, floor):
    """Bellman's recursion gives the least error, with which `experiment=binary_depth` compares."""
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
def test_biases_before_batchnorm_are_found_redundant(norm, names):
    for dtype in ("float64", "float32"):
        p = small(0, norm, dtype=dtype)
        assert p.evaluation.redundant(p.params) == names


def test_the_fitted_share_counts_only_rows_with_changed_labels():
    def problem(kind):
        model = component("model", "fc_relu", shape=[1, 8, 8], hidden=[])
        return prepare(Task(model=model, dataset=Digits(corruption=kind)), 0)

    p, clean = problem("partial"), problem("none").data
    apart = p.data.train.targets != clean.train.targets
    assert torch.equal(p.evaluation.spoilt(), apart) and 500 < apart.sum() < 800
    constant = {k: torch.zeros_like(v) for k, v in p.params.items()}
    constant["head.bias"][4] = 1.0  # this network always predicts the class 4
    got = p.evaluation.evaluate(constant)
    assert got["train/fitted"] == float((p.data.train.targets[apart] == 4).double().mean())
    assert "train/fitted" not in problem("none").evaluation.evaluate(constant)
    assert "train/fitted" not in problem("random_pixels").evaluation.evaluate(constant)
