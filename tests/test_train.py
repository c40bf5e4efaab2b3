"""The training loop: probes and trainings, resumed at any row, unchanged by analyses."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import component, studied

from sa.analysis.descent import Descent
from sa.analysis.eigenvectors import Eigenvectors
from sa.dataset.digits import Digits
from sa.dataset.point import Point
from sa.estimator.nes import NES
from sa.estimator.ste import STE
from sa.model.quadratic import Quadratic
from sa.objective import task
from sa.objective.evaluate import SPLITS
from sa.objective.forward import NetworkForward
from sa.objective.numerics import Numerics
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.quantizer.fixed_point import FixedPoint
from sa.training import groups, loop, replicas
from sa.training.average import Average
from sa.training.schedule import Annealed, StepDecay
from sa.types import Estimate, Moment

ADAM = partial(torch.optim.Adam, lr=0.003)
SGD = partial(torch.optim.SGD, lr=0.1)


EVERYTHING = loop.Recipe(
    schedule=Annealed("cosine", end=0.1, warmup=2), average=Average(decay=0.9), recalibrate=True,
    clip=0.2, until={"ema/train/loss": 0.0}, quantizer_lr=0.5,
)  # fmt: skip


STORED = replace(EVERYTHING, stored=FixedPoint(bits=12, rounding="stochastic"))


def problem(name="mlp", binary=False, **settings):
    return prepare(task_of(name, binary, **settings), 0)


def task_of(name="mlp", binary=False, **settings):
    small = {"hidden": [12, 12]} if binary else {"hidden": [12]}
    small = small if name == "mlp" else {"channels": [3, 4]}
    if binary:
        sign = {"_target_": "sa.quantizer.sign.Sign"}
        small["quantizer"] = {"_target_": "sa.types.Slots", "weight": sign, "activation": sign}
    settings = {"batch_size": 32, "dtype": "float32"} | settings
    return studied(model=component("model", name, **small), dataset=Digits(), **settings)


def rows(p, estimator, optimizer, steps, progress=None, analyses=None, **every):
    start = progress or loop.start(p)
    it = loop.loop(p, estimator, optimizer, analyses or {}, steps=steps, progress=start, **every)
    return [(row, copy.deepcopy(progress.pack())) for row, progress in it]


def test_a_probe_is_the_training_loop_with_no_steps():
    p = problem()
    got = rows(p, STE("clipped"), SGD, 0)
    assert len(got) == 1 and got[0][0]["step"] == 0 and "test/loss" not in got[0][0]
    assert got[0][0]["loss"] == pytest.approx(float(p.objective(p.batch(0)).value(p.params)))


def test_plain_sgd_is_w_minus_lr_g():
    p = problem()
    _, grad = p.objective(p.batch(0)).value_and_grad(p.params)  # exact, as only the head moves
    got = rows(p, STE("clipped"), SGD, 1)
    moved = got[1][1]["params"]["head.weight"]
    torch.testing.assert_close(moved, p.params["head.weight"] - 0.1 * grad["head.weight"])


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("estimator", [STE("clipped"), NES(samples=4)])
@pytest.mark.parametrize("recipe", [loop.Recipe(), STORED], ids=["plain", "everything"])
def test_a_training_resumes_exactly_from_any_row(name, estimator, recipe):
    adam = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.1) if recipe.clip else ADAM
    how = {"evaluate_every": 2, "recipe": recipe}
    whole = rows(problem(name, bool(recipe.clip)), estimator, adam, 6, **how)
    for at in range(7) if recipe.clip else (0, 3, 6):
        progress = loop.Progress(**copy.deepcopy(whole[at][1]))
        again = rows(problem(name, bool(recipe.clip)), estimator, adam, 6, progress, **how)
        mean, same = again[-1][1]["average"], whole[-1][1]["average"]
        assert bool(mean) == bool(recipe.average)
        for kind in ("params", "buffers") if mean else ():
            assert all(torch.equal(v, same[kind][k]) for k, v in mean[kind].items())
        assert [r for r, _ in again] == [r for r, _ in whole[at:]]
        for k, v in again[-1][1]["params"].items():
            assert torch.equal(v, whole[-1][1]["params"][k])
        for k, v in again[-1][1]["buffers"].items():
            assert torch.equal(v, whole[-1][1]["buffers"][k])


def test_an_analysis_changes_no_other_number():
    p = problem()
    plain = rows(p, NES(samples=4), ADAM, 3)
    watched = rows(problem(), NES(samples=4), ADAM, 3, analyses={"d": Descent()}, analyse_every=1)
    for (a, _), (b, _) in zip(plain, watched, strict=True):
        assert a == {k: b[k] for k in a} and "descent/best" in b


def test_an_analysis_that_remembers_resumes_from_any_row_and_measures_from_its_last_call():
    how = {"analyses": {"e": Eigenvectors(k=2, tol=1e-8)}, "analyse_every": 2}
    model = component("model", "fc_tanh", hidden=[6], shape=[1, 8, 8])
    smooth = partial(prepare, studied(model=model, dataset=Digits(), batch_size=200), 0)
    whole = rows(smooth(), STE(), SGD, 5, **how)
    since = [r.get("eigenvectors/since") for r, _ in whole]
    assert since == [None, None, 2, None, 2, 1]
    assert 0 < whole[2][0]["eigenvectors/displacement"] < 1
    for at in (1, 2, 3, 5):
        progress = loop.Progress(**copy.deepcopy(whole[at][1]))
        again = rows(smooth(), STE(), SGD, 5, progress, **how)
        assert [r for r, _ in again] == [r for r, _ in whole[at:]]


def test_training_leaves_the_parameters_of_the_problem_unchanged():
    p = problem()
    before = {k: v.clone() for k, v in p.params.items()}
    rows(p, STE("clipped"), ADAM, 3)
    for k, v in p.params.items():
        assert torch.equal(v, before[k])


def test_training_changes_only_the_moving_parameters():
    p = problem(moving=("head.*",))
    before = p.network.fc1.weight.detach().clone()
    got = rows(p, STE("clipped"), ADAM, 3)
    assert set(got[-1][1]["params"]) == {"head.weight", "head.bias"}
    assert torch.equal(p.network.fc1.weight.detach(), before)


def test_evals_of_a_row_count_all_evaluations_up_to_its_step():
    got = rows(problem(), STE("clipped"), ADAM, 4)
    assert [r["evals"] for r, _ in got] == [3.0, 6.0, 9.0, 12.0, 15.0]


def test_a_divergence_is_a_result_that_names_the_first_bad_tensor():
    class Exploding:
        target = "none"

        def init(self, params):
            return {}

        def __call__(self, objective, params, state, generator, at):
            value = objective.value(params)
            return Estimate(value, {k: torch.full_like(v, torch.inf) for k, v in params.items()}, 1)

    got = rows(problem(), Exploding(), SGD, 5)
    assert len(got) == 1 and got[0][0]["diverged"] == "the gradient"

    p = problem()
    p.params["fc1.weight"][0, 0] = torch.nan
    assert rows(p, STE("clipped"), SGD, 5)[0][0]["diverged"] == "fc1.weight"
    p = problem()
    p.params["head.weight"].fill_(3e38)
    assert rows(p, STE("clipped"), SGD, 5)[0][0]["diverged"] == "head"


def test_state_holds_only_the_estimators_entries_and_the_moment_is_an_argument():
    seen = []

    class Curious:
        target = "none"

        def init(self, params):
            return {"calls": 0}

        def __call__(self, objective, params, state, generator, at):
            seen.append((state, at))
            value, grad = objective.value_and_grad(params)
            return Estimate(value, grad, 3.0, {"calls": state["calls"] + 1})

    falling = loop.Recipe(schedule=Annealed(end=0.5))
    rows(problem(), Curious(), SGD, 4, recipe=falling)
    assert [state for state, _ in seen] == [{"calls": i} for i in range(5)]
    rate = seen[0][1].lr
    assert [at for _, at in seen] == [Moment(i, 4, rate * (1 - i / 8)) for i in range(5)]
    assert seen[1][1].progress == 0.25 and Moment().progress == 0.0


def test_a_training_starts_at_the_point_of_its_parent_which_must_fit():
    p = problem()
    trained = rows(p, STE("clipped"), ADAM, 5)[-1][1]
    child = loop.start(problem(), trained)
    assert child.step == 0
    assert torch.equal(child.params["fc1.weight"], trained["params"]["fc1.weight"])
    trained["params"]["fc9.weight"] = trained["params"]["fc1.weight"]
    with pytest.raises(ValueError, match="fc9.weight.*another network"):
        loop.start(problem(), trained)
    del trained["params"]["fc9.weight"], trained["params"]["fc1.weight"]
    with pytest.raises(ValueError, match="fc1.weight.*another network"):
        loop.start(problem(), trained)


def test_frozen_parameters_are_taken_from_the_parent():
    trained = rows(problem("cnn"), STE("clipped"), ADAM, 3)[-1][1]
    p = problem("cnn", moving=("head.*",))
    got = rows(p, STE("clipped"), ADAM, 2, loop.start(p, trained))
    assert set(got[-1][1]["params"]) == {"head.weight", "head.bias"}
    assert torch.equal(p.frozen["conv1.weight"], trained["params"]["conv1.weight"])
    whole = problem("cnn")
    start = loop.start(whole, trained)
    assert got[0][0]["loss"] == rows(whole, STE("clipped"), ADAM, 2, start)[0][0]["loss"]
    del trained["buffers"]["norm1.running_mean"]
    with pytest.raises(ValueError, match="norm1.running_mean"):
        loop.start(p, trained)


def test_training_on_digits_improves_the_test_accuracy():
    got = rows(problem(batch_size=64), STE("clipped"), ADAM, 150)
    assert (
        got[-1][0]["test/accuracy"]
        > 0.6
        > 0.3
        > rows(problem(), STE(), ADAM, 1)[-1][0]["test/accuracy"]
    )


# Schedules, averages, decay, clipping and goals


def test_schedules_equal_their_formulas():
    at = (0, 25, 50, 100)
    assert [Annealed()(t, 100) for t in at] == [1.0, 0.75, 0.5, 0.0]
    want = [0.2 + 0.8 * (1 + math.cos(math.pi * t / 100)) / 2 for t in at]
    assert [Annealed("cosine", end=0.2)(t, 100) for t in at] == pytest.approx(want)
    assert [Annealed(end=1.0, warmup=4)(t, 100) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Annealed(warmup=50)(75, 100) == 0.5  # the schedule starts after the warm-up
    assert [StepDecay()(t, 100) for t in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])
    assert StepDecay(warmup=2)(0, 100) == 0.5


@pytest.mark.parametrize("steps", [50, 100, 300, 1000])
def test_schedules_and_averages_begin_at_the_first_step_of_their_share(steps):
    for percent in range(1, 100):
        first = -(-percent * steps // 100)  # the exact ceiling
        drop = StepDecay(at=(percent / 100,))
        assert [drop(t, steps) for t in (first - 1, first)] == [1.0, 0.1], percent
        swa, point = Average(decay=None, start=percent / 100), {"w": torch.zeros(1)}
        begun = [bool(swa.look({}, point, {}, t, steps)) for t in (first - 1, first)]
        assert begun == [False, True], percent


def test_a_schedule_sets_the_learning_rate_and_every_row_records_it():
    plan = loop.Recipe(schedule=Annealed("cosine", warmup=2))
    got = rows(problem(), STE("clipped"), SGD, 5, recipe=plan)
    assert [r["lr"] for r, _ in got] == pytest.approx([0.1 * plan.schedule(t, 5) for t in range(6)])
    p = problem()
    for (row, now), (_, then) in zip(got, got[1:], strict=False):
        _, grad = p.objective(p.batch(row["step"])).value_and_grad(now["params"])
        w = now["params"]["head.weight"] - row["lr"] * grad["head.weight"]
        torch.testing.assert_close(then["params"]["head.weight"], w)


@pytest.mark.parametrize(
    ("average", "weights"),
    [
        (Average(decay=0.5), [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]),
        (Average(decay=None), [1, 1, 1, 1, 1]),
        (Average(decay=None, start=0.5), [0, 0, 1, 1, 1]),
        (Average(decay=None, start=0.25, every=3), [0, 1, 0, 0, 1]),
        (Average(decay=0.0), [0, 0, 0, 0, 1]),
    ],
)
def test_an_average_equals_the_weighted_sum_of_the_points(average, weights):
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = {}
    for step, w in enumerate(points):
        for _ in range(2):  # a step repeated after a kill counts once
            mean = average.look(mean, {"w": w}, {"v": 2 * w, "n": torch.tensor(step)}, step, 4)
    a = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(mean["params"]["w"], a @ points / a.sum())
    torch.testing.assert_close(mean["buffers"]["v"], 2 * a @ points / a.sum())
    assert mean["buffers"]["n"] == 4


def test_an_average_changes_no_other_number_and_is_evaluated_beside_the_point():
    plain = rows(problem("cnn"), STE("clipped"), ADAM, 4, evaluate_every=2)
    swa = loop.Recipe(average=Average(decay=None, start=0.5))
    got = rows(problem("cnn"), STE("clipped"), ADAM, 4, evaluate_every=2, recipe=swa)
    for (a, _), (b, _) in zip(plain, got, strict=True):
        assert a == {k: b[k] for k in a}
    assert "swa/test/loss" not in got[0][0] and "swa/test/loss" in got[2][0]
    p = problem("cnn")
    three = [progress for _, progress in got[2:]]
    for k in p.params:
        mean = torch.stack([t["params"][k] for t in three]).mean(0)
        torch.testing.assert_close(three[-1]["average"]["params"][k], mean)
    buffers = {k: torch.stack([t["buffers"][k].float() for t in three]).mean(0) for k in p.buffers}
    params = three[-1]["average"]["params"]
    alone = p.evaluation.evaluate(params, {k: v for k, v in buffers.items() if "num" not in k})
    assert got[4][0]["swa/test/loss"] == pytest.approx(alone["test/loss"], rel=1e-5)
    assert alone["test/loss"] != pytest.approx(p.evaluation.evaluate(params)["test/loss"], rel=1e-3)


def test_a_child_may_start_from_the_average():
    ema = loop.Recipe(average=Average(decay=0.9))
    parent = rows(problem(), STE("clipped"), ADAM, 4, recipe=ema)[-1][1]
    child = loop.start(problem(), parent, averaged=True)
    assert torch.equal(child.params["head.weight"], parent["average"]["params"]["head.weight"])
    assert not torch.equal(child.params["head.weight"], parent["params"]["head.weight"])
    with pytest.raises(ValueError, match="averaged"):
        loop.start(problem(), parent | {"average": {}}, averaged=True)


def test_recalibrated_batchnorm_statistics_are_those_of_all_training_rows(monkeypatch):
    p = problem("cnn", dtype="float64")
    own = {k: b.clone() for k, b in p.buffers.items()}
    got = p.evaluation.recalibrate(p.params)
    with torch.no_grad():
        maps = p.network.pool1(p.network.conv1(p.data.train.inputs))
    torch.testing.assert_close(got["norm1.running_mean"], maps.mean((0, 2, 3)))
    torch.testing.assert_close(got["norm1.running_var"], maps.transpose(0, 1).flatten(1).var(1))
    assert all(torch.equal(b, own[k]) for k, b in p.buffers.items())
    assert all(m.momentum == 0.1 for m in p.forward.norms.values())
    scores = loop._evaluate(p, p.params, {}, loop.Recipe(recalibrate=True))
    batch = float(p.objective(p.data.train).value(p.params))  # a sign depends on the mean only
    assert scores["train/loss"] == pytest.approx(batch, rel=1e-9)
    assert p.evaluation.evaluate(p.params)["train/loss"] != pytest.approx(batch, rel=1e-5)
    monkeypatch.setattr("sa.objective.evaluate.PART", 500)  # three parts of 479 rows
    got = p.evaluation.recalibrate(p.params)
    torch.testing.assert_close(got["norm1.running_mean"], maps.mean((0, 2, 3)))
    each = maps.view(3, 479, *maps.shape[1:]).transpose(1, 2).flatten(2).var(2).mean(0)
    torch.testing.assert_close(got["norm1.running_var"], each)


@pytest.mark.parametrize("all_", [False, True])
def test_weight_decay_applies_to_weights_alone_unless_decay_all(all_):
    """SGD on f = |w|^2/2 gives w (1 - lr (1 + decay)) with decay, else w (1 - lr)."""
    lr, decay, factor = 0.1, 0.5, 0.2
    shapes = {
        "fc1.weight": (2, 3),
        "fc1.bias": (2,),
        "norm1.weight": (2,),
        "act1.quantize.a": (1, 1),
    }
    params = {k: torch.ones(s, dtype=torch.float64) for k, s in shapes.items()}
    sgd = partial(torch.optim.SGD, lr=lr, weight_decay=decay)
    how = {"decay_all": all_, "quantizer_lr": factor}
    stepper = groups.stepper(sgd, params, {}, **how)
    for p in params.values():
        p.grad = p.clone()
    stepper.step()
    for name, p in params.items():
        rate = lr * factor if "quantize" in name else lr
        decays = decay if all_ or name == "fc1.weight" else 0.0
        assert p.flatten()[0] == pytest.approx(1 - rate * (1 + decays)), name
    one = groups.stepper(partial(torch.optim.SGD, lr=lr), params, {})
    assert len(one.param_groups) == 1  # as in checkpoints without groups


def test_only_latent_weights_are_clipped():
    for clip, inside in ((0.05, True), (None, False)):
        p = problem(binary=True)
        assert p.forward.latent == ["fc2.weight"] == task_of(binary=True).latent()
        got = rows(p, STE("clipped"), ADAM, 3, recipe=loop.Recipe(clip=clip))[-1][1]["params"]
        assert (got["fc2.weight"].abs().max() <= 0.05) == inside
        assert got["head.weight"].abs().max() > 0.05 < got["fc1.weight"].abs().max()
    assert problem().forward.latent == []


def test_a_goal_ends_a_training_and_the_result_names_it():
    how = {"evaluate_every": 5, "analyse_every": None}
    got = rows(problem(), STE("clipped"), ADAM, 40, **how)
    assert got[-1][0]["stopped"] == "steps" and len(got) == 41
    losses = [r["train/loss"] for r, _ in got if "train/loss" in r]
    first = next(i for i, x in enumerate(losses) if x <= losses[4])
    goal = loop.Recipe(until={"test/accuracy": 1.0, "train/loss": losses[4]})
    again = rows(problem(), STE("clipped"), ADAM, 40, analyses={"d": Descent()}, recipe=goal, **how)
    assert len(again) == 5 * first + 1 and again[-1][0]["stopped"] == f"train/loss <= {losses[4]:g}"
    assert "descent/best" in again[-1][0] and "descent/best" not in again[-2][0]
    for (a, _), (b, _) in zip(again[:-1], got, strict=False):
        assert a == b


def test_impossible_training_settings_are_refused():
    for settings, told in (
        ({"until": {"loss": 1.0}}, "'loss' is no goal"),
        ({"clip": 0.0}, "greater than 0"),
    ):
        with pytest.raises(ValueError, match=told):
            loop.Recipe(**settings)
    for recipe, told in (
        (loop.Recipe(schedule=Annealed(warmup=9)), "longer than the training of 8 steps"),
        (loop.Recipe(until={"swa/test/loss": 1.0}), "set average=swa"),
    ):
        with pytest.raises(ValueError, match=told):
            recipe.check(8)
    with pytest.raises(ValueError, match="rise"):
        StepDecay(at=(0.5, 0.25))


def test_a_batch_larger_than_memory_gives_the_same_step(monkeypatch):
    most = 1 + 2 * 8 * 10 * problem(dtype="float64").forward.width  # ten rows with their backward
    seen, call = [], NetworkForward._call

    def counted(self, params, inputs, *how):
        seen.append(len(inputs))
        return call(self, params, inputs, *how)

    monkeypatch.setattr(NetworkForward, "_call", counted)
    got = {}
    for memory in (128 << 20, most):
        seen.clear()
        p = problem(batch_size=None, dtype="float64", memory=memory)
        got[memory] = rows(p, STE("clipped"), ADAM, 3, evaluate_every=1)
        assert max(seen) == (1437 if memory > most else 20)  # evaluations keep no backward
    for (a, x), (b, y) in zip(*got.values(), strict=True):
        assert a.pop("stopped", "") == b.pop("stopped", "")
        assert b == pytest.approx(a, rel=1e-12)
        for k in x["params"]:
            torch.testing.assert_close(x["params"][k], y["params"][k], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("many", [None, 2])
def test_a_nan_output_counts_as_wrong(many):
    """``argmax`` returns the position of NaN, which would count as right for rows of that class."""
    p = replicas.stack(task_of(), 0, many) if many else problem()
    assert p.evaluation.evaluate(p.params)["test/accuracy"] > 0
    bias = p.params["head.bias"].clone()
    bias[..., 3] = torch.nan
    got = p.evaluation.evaluate(p.params | {"head.bias": bias})
    assert got["test/accuracy"] == got["train/accuracy"] == 0


# Many networks at once


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("batch_size", [718, None])  # two steps an epoch, or one
def test_each_replica_equals_the_run_of_its_seed(name, batch_size):
    recipe = replace(EVERYTHING, recalibrate=name == "cnn")
    adam = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.1)
    task = task_of(name, True, batch_size=batch_size, dtype="float64")
    how = {"evaluate_every": 2, "recipe": recipe}
    many = rows(replicas.stack(task, 3, 3), STE("clipped"), adam, 4, **how)
    alone = [rows(prepare(task, seed), STE("clipped"), adam, 4, **how) for seed in (3, 4, 5)]
    for i, (row, progress) in enumerate(many):
        each = [rows_[i] for rows_ in alone]
        assert row["loss"] == pytest.approx(sum(r["loss"] for r, _ in each) / 3, rel=1e-12)
        square = sum(r["grad_norm"] ** 2 for r, _ in each) / 3
        assert row["grad_norm"] == pytest.approx(square**0.5, rel=1e-9)
        assert row["evals"] == each[0][0]["evals"]
        for kind in ("params", "buffers"):
            for k, v in progress[kind].items():
                theirs = torch.stack([p[kind][k] for _, p in each])
                torch.testing.assert_close(v, theirs, rtol=1e-8, atol=1e-12)
    last = many[-1][0]
    for key in ("test/accuracy", "ema/train/loss"):
        theirs = [run[-1][0][key] for run in alone]
        assert last[f"{key}/each"] == pytest.approx(theirs, rel=1e-9)
        assert last[key] == pytest.approx(sum(theirs) / 3)
        assert last[f"{key}/median"] == pytest.approx(sorted(theirs)[1])
        assert last[f"{key}/low"] <= last[f"{key}/median"] <= last[f"{key}/high"]
    assert len({tuple(v.flatten().tolist()) for v in many[0][1]["params"]["head.weight"]}) == 3


@pytest.mark.parametrize("criterion", ["ce", "mse"])
def test_each_replica_records_the_share_of_wrong_labels_it_fits(criterion):
    data = Digits(corruption="partial", fraction=0.5)
    task = Task(model=component("model", "mlp", hidden=[12]), dataset=data, criterion=criterion)
    many = replicas.stack(task, 0, 2)
    got = many.evaluation.evaluate(many.params)
    alone = [prepare(task, seed) for seed in range(2)]
    each = [p.evaluation.evaluate(p.params)["train/fitted"] for p in alone]
    assert got["train/fitted/each"] == pytest.approx(each, rel=1e-12) and min(each) > 0
    assert got["train/fitted"] == pytest.approx(sum(each) / 2) and "test/fitted" not in got


def test_replicas_resume_exactly_and_a_divergence_names_the_seed():
    task = task_of("cnn")
    whole = rows(replicas.stack(task, 0, 3), STE("clipped"), ADAM, 4, evaluate_every=2)
    progress = loop.Progress(**whole[3][1])
    again = rows(replicas.stack(task, 0, 3), STE("clipped"), ADAM, 4, progress, evaluate_every=2)
    assert [r for r, _ in again] == [r for r, _ in whole[3:]]
    p = replicas.stack(task_of(), 5, 3)
    p.params["fc1.weight"][2, 0, 0] = torch.nan
    assert rows(p, STE("clipped"), SGD, 5)[0][0]["diverged"] == "fc1.weight of seed 7"


def test_replicas_draw_data_of_their_own_seeds_from_a_random_dataset():
    from sa.dataset.gaussian import Gaussian

    task = Task(model=component("model", "toy_mlp", dim=4), dataset=Gaussian(4, 64))
    p = replicas.stack(task, 0, 2)
    for seed in (0, 1):
        one = prepare(task, seed).data
        assert torch.equal(p.data.train.inputs[:, seed], one.train.inputs)
        assert torch.equal(p.data.test.targets[:, seed], one.test.targets)
    assert problem().data.train.inputs.shape[0] == 1437
    shared = replicas.stack(task_of(), 0, 2).data.train.inputs
    assert shared.stride(1) == 0  # stored once for all replicas


def kept(rounding, steps, bits=10, seed=3):
    """Return start, end, x' and the step of q for x <- q(0.99 x + 0.01 x'), SGD on (x - x')^2/2."""
    p = prepare(Task(model=Quadratic(size=256, condition=1), dataset=Point()), seed)
    recipe = loop.Recipe(stored=FixedPoint(bits=bits, range="max", rounding=rounding))
    sgd = partial(torch.optim.SGD, lr=0.01)
    got = rows(p, STE(), sgd, steps, recipe=recipe)
    end = got[-1][1]["params"]["point"]
    assert 2 < end.abs().max() <= 4, "the range is [-4, 4] at the end"
    return p.params["point"], end, p.buffers["centre"], 8 / 2**bits


def test_an_average_rounded_to_nearest_stops_once_its_updates_are_below_half_a_step():
    """If 0.01 |x - x'| < step/2, rounding removes the update, so x stays where it is."""
    start, end, target, step = kept("nearest", steps=600)
    assert torch.equal(end / step, (end / step).round())
    assert (0.01 * (end - target).abs() <= step / 2 * (1 + 1e-9)).all()
    far = (start - target).abs() > 1
    assert far.sum() > 50  # some of them stop while the range, and so the step, is half as large
    assert ((end - target).abs()[far] > 24 * step).all()


def test_an_average_rounded_at_random_reaches_its_target():
    """At the end x jumps between the two levels around x' and has mean x'.

    Its variance is f (1 - f) step^2, where f in [0, 1] is the position of x' between the levels;
    on average over f that is step^2/6.
    """
    _, end, target, step = kept("stochastic", bits=8, steps=1000)
    away = (end - target) / step
    assert (away.abs() <= 1).all()
    assert away.square().mean() == pytest.approx(1 / 6, abs=4 * 0.197 / 16)
    assert abs(away.mean()) < 4 * (1 / 6) ** 0.5 / 16


def test_the_stored_quantizer_may_not_have_parameters_of_a_layer():
    with pytest.raises(ValueError, match="stored: FixedPoint keeps something.*train=auto"):
        loop.Recipe(stored=FixedPoint(train="fixed"))
    with pytest.raises(ValueError, match="stored: LSQ keeps something"):
        loop.Recipe(stored=component("quantizer/weight", "lsq"))


def test_products_in_bfloat16_leave_weights_and_evaluations_alone():
    exact, rough = problem("cnn", binary=True), problem("cnn", binary=True, autocast="bfloat16")
    at, seen = exact.params, []
    hook = rough.network.get_submodule("head").register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    value, grad = rough.objective(rough.batch(0)).value_and_grad(at)
    hook.remove()
    assert seen == [torch.bfloat16] and all(g.dtype == torch.float32 for g in grad.values())
    truth, right = exact.objective(exact.batch(0)).value_and_grad(at)
    assert value != truth and value == pytest.approx(float(truth), rel=0.05)
    g, r = grad["head.weight"], right["head.weight"]
    assert float(torch.cosine_similarity(g.flatten(), r.flatten(), 0)) > 0.99
    assert rough.evaluation.evaluate(at) == exact.evaluation.evaluate(at)


def test_products_in_bfloat16_train_as_float32_does():
    scores = []
    for autocast in (None, "bfloat16"):
        p = problem(autocast=autocast)
        scores.append(rows(p, STE("clipped"), ADAM, 120)[-1][0]["test/accuracy"])
    assert min(scores) > 0.85 and abs(scores[0] - scores[1]) < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not task.compiler(), reason="torch.compile needs a C++ compiler: g++")
@pytest.mark.filterwarnings("ignore")  # warnings of torch's compiler about itself
def test_a_compiled_loss_equals_the_plain_loss():
    """It is compiled in parts, which end at each step function with an estimator's backward."""
    kind = {"dtype": "float64"}
    fast = rows(problem("mlp", True, **kind, compile=True), STE("clipped"), SGD, 3)
    plain = rows(problem("mlp", True, **kind), STE("clipped"), SGD, 3)
    for (a, one), (b, other) in zip(fast, plain, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-12)
        for k, v in one["params"].items():
            torch.testing.assert_close(v, other["params"][k], rtol=1e-11, atol=1e-13)


def test_compile_is_refused_without_a_cpp_compiler(monkeypatch):
    monkeypatch.setattr(task, "compiler", lambda: None)
    with pytest.raises(task.Mismatch, match="no C\\+\\+ compiler"):
        replace(task_of(), numerics=Numerics(compile=True)).check_machine()


@pytest.mark.parametrize("criterion", ["ce", "mse"])
def test_a_full_batch_step_evaluates_its_rows_with_the_gradient(criterion, monkeypatch):
    whole = {"batch_size": None, "criterion": criterion, "dtype": "float64"}
    p = problem("mlp", binary=True, memory=1 << 20, **whole)  # evaluated in several parts
    got = rows(p, STE("clipped"), SGD, 3, evaluate_every=2)
    for row, progress in got:  # every row has training scores
        alone = p.evaluation.evaluate(
            progress["params"], splits=["train"] if row["step"] % 2 == 1 else SPLITS
        )
        assert {k: row[k] for k in alone} == pytest.approx(alone, abs=1e-12)
        assert ("test/loss" in row) == (row["step"] != 1)
    lowest = min((row["train/loss"], row["step"]) for row, _ in got)
    goal = loop.Recipe(until={"train/loss": lowest[0]})
    met = rows(p, STE("clipped"), SGD, 3, recipe=goal)[-1][0]
    assert met["step"] == lowest[1] and "test/loss" in met
    assert met["stopped"].startswith("train/loss")
    seen = []
    call = NetworkForward._call
    monkeypatch.setattr(
        NetworkForward, "_call", lambda self, *a: seen.append(len(a[1])) or call(self, *a)
    )
    rows(p, STE("clipped"), SGD, 0)
    once = sum(seen)
    seen.clear()
    rows(p, STE("clipped"), SGD, 1, evaluate_every=1)
    assert sum(seen) == 2 * once + 2 * p.data.test.rows


def test_outputs_of_a_batch_are_kept_only_for_the_point_of_the_last_gradient():
    p = problem(batch_size=None)
    objective = p.objective(p.batch(0))
    assert objective.seen(p.params) is None
    objective.value_and_grad(p.params)
    assert sum(map(len, objective.seen(p.params))) == p.data.train.rows
    assert objective.seen(dict(p.params)) is None
    next(iter(p.params.values())).mul_(2)
    assert objective.seen(p.params) is None
    # with batch statistics an evaluation needs another forward
    normed = problem("cnn", batch_size=None)
    objective = normed.objective(normed.batch(0))
    objective.value_and_grad(normed.params)
    assert objective.seen(normed.params) is None
