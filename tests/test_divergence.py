"""A training has diverged if its loss stays far above its reference, for every estimator."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from sa.analysis.training import Training
from sa.config.parents import parent
from sa.dataset.gaussian import Gaussian
from sa.dataset.point import Point
from sa.estimator.mezo import MeZO
from sa.estimator.ste import STE
from sa.model.quadratic import Quadratic
from sa.model.toy_mlp import ToyMLP
from sa.objective import divergence
from sa.objective.criterion import ce, mse
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import stream
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.record import identity
from sa.training import loop, replicas
from sa.types import Slots

TASK = Task(
    model=ToyMLP(quantizer=Slots(Identity(), Sign()), dim=4, gain=math.sqrt(3)),
    dataset=Gaussian(dim=4, n=32),
)


def problem():
    return prepare(TASK, 0)


def rows(p, lr, steps, progress=None, estimator=STE(), **recipe):  # noqa: B008
    sgd = partial(torch.optim.SGD, lr=lr)
    start = progress or loop.Progress(0, p.params, p.buffers, {}, {})
    how = {"recipe": loop.Recipe(**recipe), "progress": start, "steps": steps}
    return [(row, copy.deepcopy(at.pack())) for row, at in loop.loop(p, estimator, sgd, {}, **how)]


def test_the_best_constant_output_is_the_mean_or_the_shares_of_the_classes():
    targets = torch.randn(50, 3, generator=stream(0), dtype=torch.float64)
    got = divergence.best_constant(mse, targets)
    assert got == pytest.approx(float(targets.var(0, correction=0).mean()))
    classes = torch.tensor([0] * 6 + [2] * 3 + [5])
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    entropy = divergence.best_constant(ce, classes)
    assert entropy == pytest.approx(float(-(p * p.log()).sum()))
    for loss, output, best in (
        (mse, targets.mean(0) + 0.1, got),
        (ce, torch.tensor([2.0, -9.0, 1.0, -9.0, -9.0, 0.5], dtype=torch.float64), entropy),
    ):
        there = targets if loss is mse else classes
        assert float(loss(output.expand(len(there), -1), there).mean()) > best
    assert divergence.best_constant(mse, torch.zeros(4, 0)) == 0.0


def seen(losses, factor=10.0, constant=0.0):
    """Return the step at which a single loss counts as diverged, or None."""
    state, constants = {}, torch.tensor([constant])
    for step, loss in enumerate(losses):
        each = partial(torch.tensor, [loss])
        state, lost = divergence.look(state, factor, loss, each, constants)
        if lost:
            return step
    return None


def test_three_steps_in_a_row_above_the_reference_are_a_divergence():
    assert seen([1.0, 11.0, 12.0, 13.0]) == 3
    assert seen([1.0, 11.0, 12.0, 9.0, 11.0, 12.0, 9.9]) is None  # a peak that comes back
    assert seen([1.0, 10.0, 10.0, 10.0]) is None  # equal to the limit is not above it
    assert seen([1.0, 1e30, 1e30, 1e30], factor=None) is None
    # from a trained point, or from 0, the best constant output is the reference
    assert seen([1e-6, 0.5, 0.5, 0.5], constant=1.0) is None
    assert seen([0.0, 11.0, 11.0, 11.0], constant=1.0) == 3
    assert seen([0.0, 11.0, 11.0, 11.0]) is None  # no reference to compare with


def test_every_network_is_compared_with_its_own_reference():
    state, told = {}, []
    for losses in ([1.0, 100.0], *[[12.0, 900.0]] * 2, [12.0, 1100.0]):
        each: partial[Tensor] = partial(torch.tensor, losses)
        state, lost = divergence.look(state, 10.0, sum(losses), each, torch.zeros(2))
        told.append(lost)
    assert told == [[], [], [], [0]]


@pytest.mark.parametrize(
    ("estimator", "lr"), [(STE(), 3.0), (MeZO(sigma=0.1), 1.0)], ids=["ste", "mezo"]
)
def test_a_finite_loss_that_blows_up_is_a_divergence_also_after_a_resume(estimator, lr):
    got = rows(problem(), lr, 200, estimator=estimator)
    last = got[-1][0]
    assert math.isfinite(last["loss"]) and last["step"] < 200
    assert "times" in last["diverged"] and "above 1000 times for 3 steps" in last["diverged"]
    reference = max(got[0][0]["loss"], float(problem().evaluation.constant()))
    high = [r["loss"] > 1000 * reference for r, _ in got]
    assert high[-3:] == [True] * 3 and not any(all(high[i : i + 3]) for i in range(len(high) - 3))
    free = rows(problem(), lr, last["step"] + 1, estimator=estimator, diverge=None)
    assert "diverged" not in free[-1][0] and free[-1][0]["stopped"] == "steps"
    for at in (0, len(got) // 2, len(got) - 2, len(got) - 1):  # also within the last three
        again = rows(problem(), lr, 200, loop.Progress(**got[at][1]), estimator)
        assert [r for r, _ in again] == [r for r, _ in got[at:]]


def test_the_first_replica_to_diverge_ends_all_at_the_step_where_it_diverges_alone():
    task = TASK
    alone = [rows(prepare(task, seed), 3.0, 200)[-1][0] for seed in (3, 4, 5)]
    first = min(range(3), key=lambda i: alone[i]["step"])
    last = rows(replicas.stack(task, 3, 3), 3.0, 200)[-1][0]
    assert last["step"] == alone[first]["step"]
    assert f"of seed {3 + first}" in last["diverged"]
    assert last["diverged"].replace(f" of seed {3 + first}", "") == alone[first]["diverged"]


def test_each_replica_has_its_own_losses_and_constants():
    task = TASK
    many = replicas.stack(task, 3, 3)
    alone = [prepare(task, seed) for seed in (3, 4, 5)]
    law = torch.stack([p.objective(p.batch(0)).value(p.params) for p in alone])
    total = law.sum()
    torch.testing.assert_close(many.forward.per_network(many.params, many.batch(0), total), law)
    few = replace(many.forward.numerics, memory=8 * many.forward.width * 5)
    many.forward.numerics = few
    torch.testing.assert_close(many.forward.per_network(many.params, many.batch(0), total), law)
    torch.testing.assert_close(
        many.evaluation.constant(), torch.cat([p.evaluation.constant() for p in alone])
    )


def test_a_model_that_is_its_own_loss_diverges_only_if_diverge_is_set():
    task = Task(model=Quadratic(), dataset=Point())
    free = rows(prepare(task, 0), 30.0, 60)
    assert free[-1][0]["loss"] > 1e6 * free[0][0]["loss"] > 0 and "diverged" not in free[-1][0]
    held = rows(prepare(task, 0), 30.0, 60, diverge=50)
    assert "above 50 times" in held[-1][0]["diverged"] and len(held) < 60


def test_the_training_analysis_counts_the_short_trainings_that_diverged():
    p = problem()
    f, how = p.objective(p.batch(0)), {"points": 2, "steps": 40, "evals": 1e6}
    estimate = STE()(f, p.params, {}, stream(0))
    sound = Training(STE(), lr_min=0.001, lr_max=0.01, **how)(f, p.params, estimate, stream(1))
    wild = Training(STE(), lr_min=0.01, lr_max=1e4, **how)(f, p.params, estimate, stream(1))
    assert sound["training/nonfinite"] == 0 and wild["training/nonfinite"] == 1
    assert math.isinf(wild["training/losses"][1]) and math.isfinite(wild["training/loss"])


def test_the_default_of_diverge_keeps_the_run_id_and_another_value_changes_it():
    old = {"estimator": "ste", "steps": 3}
    ids = [identity.run_id(old | x) for x in ({}, {"diverge": 1000}, {"diverge": 1000.0})]
    others = [identity.run_id(old | {"diverge": x}) for x in (None, 10)]
    assert len(set(ids)) == 1 and len({*ids, *others}) == 3
    made = parent({**old, "diverge": None, "init": {"steps": 5}})
    assert made["diverge"] == 1000  # a parent has its own setting, init.diverge
    assert parent({**old, "init": {"steps": 5, "diverge": 9}})["diverge"] == 9
