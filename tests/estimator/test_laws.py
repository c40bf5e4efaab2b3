"""Tests of the laws that every option of `estimator=` keeps; new options are tested at once."""

from dataclasses import replace

import pytest
import torch
from conftest import component, options, studied

from sa.dataset.gaussian import Gaussian
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Structure
from sa.objective.function import from_function
from sa.objective.objective import Objective
from sa.objective.prepare import prepare
from sa.params import flatten
from sa.quantizer.bernoulli import Bernoulli
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Moment, Slots

ESTIMATORS = options("estimator")
TARGETS = {"true", "box", "cube", "gaussian", "ball", "stochastic", "surrogate", "none"}
NO_BASELINE = {"nes_vanilla"}  # the designed negative control
BLIND = {"random"}  # its gradient does not depend on the loss
BEST_OF = {"best_of", "best_of_ste", "best_of_span"}
ORACLES = {"snes", "xnes", "cma"}
# These return minus the displacement to the best point they found. Its length does not depend on
# the slope of the loss, so its scale and its mean cannot be compared with a gradient's.
DISPLACEMENTS = BEST_OF | ORACLES | {"discrete_gradient"}
STRUCTURED = {
    "local_nes",
    "discrete_gradient",
}  # need a network and not a plain function; their own files test the laws
ONE_SIDED = {
    "finite_difference"
}  # has a bias of eps H_ii / 2 on a quadratic; test_directions.py tests it
SCALELESS = {"nes_ranks", "ars"}  # do not change when the loss is multiplied: not unbiased
RANDOM_UNITS = {e for e in ESTIMATORS if component("estimator", e).target == "stochastic"}
# depend on the learning rate and the curvature; test_spectral.py and test_flow.py test them
SPECTRAL = {"spectral", "spectral_ste", "flow"}
FREE = sorted(set(ESTIMATORS) - STRUCTURED - RANDOM_UNITS - SPECTRAL)  # work on any function


def run(estimator, objective, params, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return estimator(objective, params, estimator.init(params), generator, Moment(lr=0.1))


def problem(name="", memory=1 << 26, dtype="float64"):
    special = {name: Bernoulli() for name in RANDOM_UNITS} | dict.fromkeys(
        ("spectral", "flow"), Identity()
    )
    slots = Slots(Identity(), special.get(name, Sign()))
    task = studied(
        model=ToyMLP(quantizer=slots, dim=4, hidden=2),
        dataset=Gaussian(dim=4, n=100),
        memory=memory,
        dtype=dtype,
    )
    return prepare(task, 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_declares_its_target(name):
    assert component("estimator", name).target in TARGETS


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_same_seed_gives_the_same_gradient_and_the_point_is_unchanged(name):
    p = problem(name)
    before = {k: v.clone() for k, v in p.params.items()}
    buffers = {k: v.clone() for k, v in p.network.state_dict().items()}
    estimator = component("estimator", name)
    one, two = (run(estimator, p.objective(p.batch(0)), p.params) for _ in range(2))
    assert list(one.grad) == list(p.params)
    for k in p.params:
        assert one.grad[k].shape == p.params[k].shape
        assert one.grad[k].dtype == p.params[k].dtype
        assert torch.equal(one.grad[k], two.grad[k])
        assert torch.equal(p.params[k], before[k])
    for k, v in p.network.state_dict().items():
        assert torch.equal(v, buffers[k])
    assert one.value.dtype == torch.float64 and one.value.shape == ()


# guided_es, orthonormal_probe and fogzo are biased in general (test_guided.py tests their means).
# The loss here has no step function, so their guide is the true gradient and they are unbiased.
# sges is still in its warm-up here, where it is unbiased.
@pytest.mark.parametrize("name", sorted(set(FREE) - BLIND - ONE_SIDED - SCALELESS - DISPLACEMENTS))
def test_every_estimator_is_unbiased_on_a_quadratic_and_has_the_right_length(name, quadratic):
    # smoothing a quadratic adds a constant, so every mean is exactly Hw + b
    estimator, f = component("estimator", name), from_function(quadratic, vectorized=True)
    draws = torch.stack(
        [flatten(run(estimator, f, quadratic.point, seed).grad) for seed in range(150)]
    )
    truth = quadratic.grad
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - truth).abs() <= 4 * error + 1e-9).all()
    r = draws @ truth / (truth @ truth)
    assert abs(float(r.mean()) - 1) <= 4 * float(r.std()) / len(r) ** 0.5 + 1e-9


@pytest.mark.parametrize("name", FREE)
def test_a_loss_multiplied_by_3_gives_3_times_the_gradient(name):
    p = problem(name)
    estimator, f = component("estimator", name), p.objective(p.batch(0))
    scaled = p.objective(p.batch(0))
    rows = scaled.rows
    scaled.rows = lambda params, batch: 3.0 * rows(params, batch)
    # the structure of the network states the criterion without the factor 3
    scaled.forward = replace(f.forward, structure=Structure())
    scaled.keep_outputs = False
    one, three = run(estimator, f, p.params), run(estimator, scaled, p.params)
    factor = 1.0 if name in BLIND | SCALELESS | DISPLACEMENTS else 3.0
    torch.testing.assert_close(
        flatten(three.grad), factor * flatten(one.grad), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", FREE)
def test_a_constant_added_to_the_loss_changes_only_the_negative_control(name, quadratic):
    estimator = component("estimator", name)
    one = run(estimator, from_function(quadratic, vectorized=True), quadratic.point)
    moved = from_function(lambda p: quadratic(p) + 100.0, vectorized=True)
    two = run(estimator, moved, quadratic.point)
    gap = float((flatten(one.grad) - flatten(two.grad)).abs().max())
    assert gap > 0.1 if name in NO_BASELINE else gap < 1e-9


@pytest.mark.parametrize("name", ESTIMATORS)
def test_splitting_rows_and_points_into_chunks_does_not_change_the_gradient(name):
    estimator = component("estimator", name)
    grads = []
    # everything at once; some points at a time; one row of one point at a time
    for memory in (1 << 26, 40_000, 2016):
        p = problem(name, memory)
        if memory == 2016 and name not in ("ste", "cdg"):
            continue  # one row at a time is slow; two estimators suffice
        grads.append(flatten(run(estimator, p.objective(p.batch(0)), p.params).grad))
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=1e-9, atol=1e-10)


class Counting(Objective):
    spent = 0.0

    def value(self, params):
        self.spent += 1
        return super().value(params)

    def values(self, stack, base=None):
        self.spent += len(next(iter(stack.values())))
        return super().values(stack, base)

    def directional(self, params, stack):
        self.spent += len(next(iter(stack.values())))
        return super().directional(params, stack)

    def value_and_grad(self, params, **settings):
        self.spent += 3
        return super().value_and_grad(params, **settings)


@pytest.mark.parametrize("name", FREE)
def test_evals_are_the_number_of_evaluations_that_were_run(name, quadratic):
    plain = from_function(quadratic, vectorized=True)
    f = Counting(plain.forward, plain.batch)
    got = run(component("estimator", name), f, quadratic.point)
    assert got.evals == f.spent


@pytest.mark.parametrize("name", ESTIMATORS)
def test_float32_parameters_have_float32_gradients(name):
    p = problem(name, dtype="float32")
    got = run(component("estimator", name), p.objective(p.batch(0)), p.params)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in got.grad.values())
