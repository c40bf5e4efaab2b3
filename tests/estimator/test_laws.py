"""Tests of the laws that every option of `estimator=` keeps; new options are tested at once.

`sa.testing` has the laws that need no network of several sizes. What a class breaks on purpose it
says itself, in its attribute ``laws``.
"""

from contextlib import suppress

import pytest
import torch
from conftest import component, options, studied

from sa.dataset.gaussian import Gaussian
from sa.model.toy_mlp import ToyMLP
from sa.network.hooks import called
from sa.objective.prepare import prepare
from sa.params import flatten
from sa.quantizer.bernoulli import Bernoulli
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.testing import check_estimator
from sa.types import Moment, Slots

ESTIMATORS = options("estimator")


def run(estimator, objective, params, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return estimator(objective, params, estimator.init(params), generator, Moment(lr=0.1))


def problem(name="ste", memory=1 << 26, dtype="float64"):
    """Return a small network with units that an estimator accepts: signs, random or linear ones."""
    estimator = component("estimator", name)
    for unit in (Sign(), Bernoulli(), Identity()):
        model = ToyMLP(quantizer=Slots(Identity(), unit), dim=4, hidden=2)
        task = studied(model=model, dataset=Gaussian(dim=4, n=100), memory=memory, dtype=dtype)
        with suppress(ValueError):
            called(estimator, "requires", task.structure())
            return prepare(task, 0)
    raise AssertionError(f"{name} accepts none of these networks")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_option_keeps_the_laws_that_it_does_not_excuse_and_needs_its_excuses(name):
    searches = "generations" in vars(component("estimator", name))
    few = {"generations": 20} if searches else {}  # the laws hold for any number
    assert check_estimator(lambda: component("estimator", name, **few)) == {}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_chunks_of_rows_and_points_do_not_change_the_gradient_and_no_run_changes_the_network(name):
    estimator = component("estimator", name)
    grads = []
    # everything at once; some points at a time; one row of one point at a time
    for memory in (1 << 26, 40_000, 2016):
        if memory == 2016 and name not in ("ste", "cdg"):
            continue  # one row at a time is slow; two estimators suffice
        p = problem(name, memory)
        before = {k: v.clone() for k, v in p.network.state_dict().items()}
        grads.append(flatten(run(estimator, p.objective(p.batch(0)), p.params).grad))
        assert all(torch.equal(v, before[k]) for k, v in p.network.state_dict().items())
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_float32_parameters_of_a_network_have_float32_gradients(name):
    p = problem(name, dtype="float32")
    got = run(component("estimator", name), p.objective(p.batch(0)), p.params)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in got.grad.values())
