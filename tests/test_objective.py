"""Tests that every way of evaluating the loss gives the same loss, and of what it is made of."""

import copy
import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import component, options, studied

from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.dataset.point import Point
from sa.dataset.sinc import Sinc
from sa.estimator.cdg import CDG
from sa.flips import progress
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.objective.task import Mismatch, Task
from sa.params import flatten, unflatten
from sa.record import telling
from sa.types import Batch, Moment

SMALL = {
    "mlp": {"hidden": [7, 6]}, "cnn": {"channels": [3, 4]}, "xnor_resnet18": {"init_channels": 2},
}  # fmt: skip
HUGE = ("vgg11", "vgg11_bn", "vgg13", "vgg16", "resnet44", "resnet56")


def problem(name="mlp", **settings):
    """Return a small model of this name on a dataset that fits its shape."""
    small = SMALL.get(name, {})
    model = component("model", name, **small)
    if len(model.shape) == 3:
        model = component("model", name, **small | {"shape": [1, 8, 8]})
    data = {(0,): Point(), (1,): Sinc(), (3,): Gaussian(n=60)}.get(tuple(model.shape), Digits())
    return prepare(studied(model=model, dataset=data, **settings), 0)


@pytest.mark.parametrize("name", [m for m in options("model") if m not in HUGE])
def test_values_of_many_points_equal_a_loop_over_them(name):
    p = problem(name, memory=1 << 32)
    f = p.objective(p.batch(0).part(0, 50))
    g = torch.Generator().manual_seed(0)
    w = flatten(p.params)
    points = w + 0.1 * torch.randn(5, len(w), generator=g, dtype=w.dtype)
    stacked = f.values(unflatten(points, p.params))
    looped = torch.stack([f.value(unflatten(v, p.params)) for v in points])
    torch.testing.assert_close(stacked, looped, rtol=1e-12, atol=0)
    assert stacked.dtype == torch.float64


def test_parameters_missing_from_a_stack_are_taken_from_the_base_point():
    p = problem()
    f = p.objective(p.batch(0).part(0, 50))
    stack = {"fc1.weight": torch.stack([p.params["fc1.weight"], p.params["fc1.weight"] * 2])}
    got = f.values(stack, p.params)
    assert float(got[0]) == pytest.approx(float(f.value(p.params)), rel=1e-12)
    assert float(got[1]) == pytest.approx(
        float(f.value(p.params | {"fc1.weight": p.params["fc1.weight"] * 2})), rel=1e-12
    )


def test_the_gradient_of_a_smooth_network_equals_finite_differences():
    slots = {
        "_target_": "sa.types.Slots",
        "weight": {"_target_": "sa.quantizer.none.Identity"},
        "activation": {"_target_": "sa.quantizer.none.Identity"},
    }
    p = prepare(
        Task(model=component("model", "mlp", hidden=[4], quantizer=slots), dataset=Digits()), 0
    )
    f = p.objective(p.batch(0).part(0, 30))
    _, grad = f.value_and_grad(p.params)
    brute = f.differences(p.params, [1e-5], "brute").grads[0]
    torch.testing.assert_close(flatten(grad), flatten(brute), rtol=1e-5, atol=1e-8)


def test_splitting_rows_into_chunks_changes_neither_loss_nor_gradient():
    whole, split = problem(), problem(memory=15_744)
    for p in (whole, split):
        assert p.objective(p.batch(0))._chunk_sizes(1, p.forward.width)[1] == (
            1437 if p is whole else 12
        )
    (a, ga), (b, gb) = (p.objective(p.batch(0)).value_and_grad(p.params) for p in (whole, split))
    assert float(a) == pytest.approx(float(b), rel=1e-12)
    torch.testing.assert_close(flatten(ga), flatten(gb), rtol=1e-9, atol=1e-14)


def test_float32_losses_are_summed_in_float64():
    p = problem(dtype="float32")
    f = p.objective(p.batch(0))
    rows = f.rows(p.params, f.batch)
    assert rows.dtype == torch.float32
    assert float(f.value(p.params)) == float(rows.double().mean())


def test_batchnorm_couples_rows_and_evaluations_do_not_change_its_statistics():
    p = problem("cnn")
    before = {k: v.clone() for k, v in p.buffers.items()}
    f = p.objective(p.batch(0).part(0, 40))
    f.forward.numerics = replace(f.forward.numerics, memory=1000)
    assert f._chunk_sizes(10, p.forward.width) == (1, 40)
    f.value(p.params)
    f.value_and_grad(p.params)
    f.values({k: v.unsqueeze(0) for k, v in p.params.items()})
    for k, v in p.buffers.items():
        assert torch.equal(v, before[k])
    p.forward.track(p.params, p.batch(0).inputs)
    assert any(not torch.equal(v, before[k]) for k, v in p.buffers.items())


def test_batch_and_running_statistics_give_different_losses():
    batch, running = (
        problem("cnn", batchnorm=b).objective(problem("cnn").batch(0)) for b in ("batch", "running")
    )
    point = problem("cnn").params
    assert float(batch.value(point)) != float(running.value(point))
    assert not running.coupled


def test_the_heldout_objective_is_the_loss_on_the_test_split():
    p = problem()
    f = p.objective(p.batch(0))
    assert f.heldout.batch is p.data.test
    assert float(f.heldout.value(p.params)) == pytest.approx(
        p.evaluation.evaluate(p.params)["test/loss"], rel=1e-12
    )


def test_a_reference_is_computed_once_for_each_point_and_moment():
    calls = []

    class Counted:
        target = "true"

        def init(self, params):
            return {}

        def __call__(self, objective, params, state, generator, at):
            calls.append(1)
            from sa.types import Estimate

            return Estimate(objective.value(params), params, 1.0)

    f, at, estimator = from_function(lambda p: p["w"].sum()), {"w": torch.ones(2)}, Counted()
    f.reference(estimator, at)
    f.reference(estimator, at)
    f.reference(estimator, {"w": torch.ones(2)})
    assert len(calls) == 2
    for _ in range(2):
        f.reference(estimator, at, Moment(1, 2))  # an estimator may depend on the moment
    assert len(calls) == 3
    at["w"].add_(1)
    f.reference(estimator, at, Moment(1, 2))
    assert len(calls) == 4


def test_a_function_that_detaches_its_parameters_has_gradient_0():
    f = from_function(lambda p: torch.tensor(float(p["w"].detach().sum())))
    value, grad = f.value_and_grad({"w": torch.tensor([1.0, 2.0])})
    assert float(value) == 3.0 and not grad["w"].any()


def test_from_function_needs_no_vmap():
    f = from_function(lambda p: torch.tensor(p["w"].sum().item()))  # .item() forbids vmap
    got = f.values({"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    assert got.tolist() == [3.0, 7.0]


def test_minibatches_cover_an_epoch_and_depend_on_seed_and_step_alone():
    p = problem(batch_size=100)
    epoch = torch.cat([p.batch(s).inputs for s in range(14)])
    assert len(torch.unique(epoch.flatten(1), dim=0)) == 1400  # no row appears twice
    assert torch.equal(p.batch(3).inputs, problem(batch_size=100).batch(3).inputs)
    assert not torch.equal(p.batch(3).inputs, p.batch(17).inputs)  # every epoch has its own order


@pytest.mark.parametrize(
    ("moving", "names"),
    [
        (("fc2.*",), ["fc2.weight", "fc2.bias"]),
        (("*.bias",), ["fc1.bias", "fc2.bias", "head.bias"]),
        ((1,), ["fc2.weight", "fc2.bias"]),
        ((-1, "head.weight"), ["fc2.weight", "fc2.bias", "head.weight"]),
    ],
)
def test_moving_selects_parameters_by_pattern_and_by_layer_number(moving, names):
    p = problem(moving=moving)
    assert list(p.params) == names
    everything = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "head.weight", "head.bias"}
    assert set(p.frozen) == everything - set(names)


@pytest.mark.parametrize("moving", [("nope",), (5,), (0,)])
def test_the_error_for_a_wrong_moving_names_the_layers_that_can_move(moving):
    with pytest.raises(Mismatch, match="fc2"):
        problem(moving=moving)


def test_errors_for_mismatches_name_both_sides():
    from sa.dataset.gaussian import Gaussian

    with pytest.raises(Mismatch, match=r"the model .*\(1, 8, 8\).*the dataset .*\(3,\)"):
        Task(model=component("model", "mlp"), dataset=Gaussian()).check()
    with pytest.raises(Mismatch, match="2 outputs.*10 classes"):
        Task(model=component("model", "mlp", outputs=2), dataset=Digits()).check()
    with pytest.raises(Mismatch, match="use criterion=mse"):
        Task(model=component("model", "toy_mlp"), dataset=Gaussian(), criterion="ce").check()


def test_squared_error_on_classes_takes_one_hot_targets():
    p = problem(criterion="mse")
    assert p.data.train.targets.sum(1).eq(1).all() and p.data.train.targets.shape == (1437, 10)
    assert 0 <= p.evaluation.evaluate(p.params)["test/accuracy"] <= 1


def test_a_part_of_a_batch_has_its_rows_and_targets_keep_their_type():
    b = Batch(torch.arange(6.0).view(3, 2), torch.arange(3))
    assert b.rows == 3 and b.part(1, 3).inputs.tolist() == [[2, 3], [4, 5]]
    assert b.to(torch.float64).targets.dtype == torch.int64


def test_long_computations_print_their_progress(capsys, monkeypatch):
    import time

    clock = iter(range(0, 10_000, 20))  # each reading of the clock is 20 s later
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    p = problem(progress=True, memory=200_000)
    p.objective(p.batch(0).part(0, 5)).differences(p.params, [0.1], "brute")
    told = capsys.readouterr().err
    assert "brute-force differences, eps 0.1" in told and "s left" in told
    quiet = problem()
    quiet.objective(quiet.batch(0).part(0, 5)).differences(quiet.params, [0.1], "brute")
    assert not capsys.readouterr().err


def test_bars_that_are_shown_at_once_share_one_display(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = iter(range(0, 10_000, 20))
    with telling.Bar("training", 10, terminal) as outer:
        later = SimpleNamespace(monotonic=lambda: float(next(clock)))
        monkeypatch.setattr(progress, "time", later)
        with progress.Progress(True, "exact differences", 5, "rows") as told:
            told(1)
            told(2)
            assert len(telling._DISPLAY) == 1 and len(telling._DISPLAY[0].tasks) == 2
        assert [t.description for t in telling._DISPLAY[0].tasks] == ["training"]
        outer.update(3)
    assert not telling._DISPLAY and "2/5" not in terminal.getvalue().splitlines()[-1]
    assert not telling.LOST


def test_a_reference_is_computed_again_after_the_point_was_changed_in_place():
    f = from_function(lambda p: (p["w"] ** 2).sum())
    point = {"w": torch.tensor([3.0], dtype=torch.float64)}
    one = f.reference(CDG(0.1), point)
    assert f.reference(CDG(0.1), point) is one
    point["w"] += 1
    assert float(f.reference(CDG(0.1), point)["w"]) == pytest.approx(8)


class Kept:
    """A store of partial results in memory that interrupts the work after ``until`` saves."""

    def __init__(self, parts=None, until=None):
        self.parts, self.until, self.number = parts or {}, until, -1

    def take(self):
        self.number += 1
        return self.number, self.parts.get(self.number, {})

    def keep(self, number, state):
        self.parts[number] = copy.deepcopy(state)
        self.until = self.until and self.until - 1
        if self.until == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["nes", "nes_baseline", "nes_orthogonal", "spsa"])
def test_interrupted_sums_over_directions_resume_from_what_was_saved(name):
    p = problem()
    f = p.objective(p.batch(0).part(0, 20))
    estimator = component("estimator", name, samples=1600)

    def run():
        return estimator(f, p.params, {}, torch.Generator().manual_seed(0))

    whole = run()
    f.partial = Kept(until=2 if name == "nes_orthogonal" else 20)
    with pytest.raises(KeyboardInterrupt):
        run()
    spent, values = [], f.values
    f.values = lambda stack: spent.append(len(next(iter(stack.values())))) or values(stack)
    f.partial = Kept(f.partial.parts)
    again = run()
    assert all(torch.equal(again.grad[k], whole.grad[k]) for k in p.params)
    assert again.info == whole.info and 0 < sum(spent) < 0.6 * whole.evals


def test_interrupted_differences_resume_from_what_was_saved():
    p = problem("cnn", memory=20_000_000)  # batch statistics need brute force
    f = p.objective(p.batch(0).part(0, 20))
    whole = f.differences(p.params, [0.1, 0.01])
    assert whole.path == "brute"
    f.partial = Kept(until=9)
    with pytest.raises(KeyboardInterrupt):
        f.differences(p.params, [0.1, 0.01])
    spent, values = [], f.values
    f.values = lambda stack, base: (
        spent.append(len(next(iter(stack.values())))) or values(stack, base)
    )
    f.partial = Kept(f.partial.parts)
    again = f.differences(p.params, [0.1, 0.01])
    for mine, theirs in zip(again.grads, whole.grads, strict=True):
        assert all(torch.equal(mine[k], theirs[k]) for k in p.params)
    assert 0 < sum(spent) < whole.evals


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_flip_rate_is_the_share_of_states_that_differ(name):
    p = problem(name, batchnorm="running")
    f = p.objective(p.batch(0).part(0, 50))
    assert f.flip_rate(p.params, p.params) == 0.0
    first = next(iter(p.params))
    turned = p.params | {first: -p.params[first]}  # biases are 0: all signs of layer 1 flip
    rate = f.flip_rate(p.params, turned)
    layers = f.forward.states(p.params, f.batch)
    assert rate >= layers[0].numel() / sum(a.numel() for a in layers) * 0.99
    assert from_function(lambda q: q["w"].sum()).flip_rate({}, {}) is None
