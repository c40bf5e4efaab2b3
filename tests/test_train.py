"""The loop: one path for probing and training, resumable at any row, undisturbed by analyses."""

import copy
from functools import partial

import pytest
import torch
from conftest import component

from sa import train
from sa.analysis.descent import Descent
from sa.dataset.digits import Digits
from sa.estimator.nes import NES
from sa.estimator.ste import STE
from sa.task import Task

ADAM = partial(torch.optim.Adam, lr=0.003)
SGD = partial(torch.optim.SGD, lr=0.1)


def problem(name="mlp", **settings):
    small = {"hidden": [12]} if name == "mlp" else {"channels": [3, 4]}
    settings = {"batch_size": 32, "dtype": "float32"} | settings
    return Task(model=component("model", name, **small), dataset=Digits(), **settings).prepare(0)


def rows(p, estimator, optimizer, steps, progress=None, analyses=None, **every):
    start = progress or train.start(p)
    it = train.loop(p, estimator, optimizer, analyses or {}, steps=steps, progress=start, **every)
    return [(row, copy.deepcopy(progress.pack())) for row, progress in it]


def test_a_probe_is_the_loop_with_no_steps():
    p = problem()
    got = rows(p, STE("clipped"), SGD, 0)
    assert len(got) == 1 and got[0][0]["step"] == 0 and "test/loss" not in got[0][0]
    assert got[0][0]["loss"] == pytest.approx(float(p.objective(p.batch(0)).value(p.params)))


def test_plain_sgd_is_w_minus_lr_g():
    p = problem()
    _, grad = p.objective(p.batch(0)).value_and_grad(p.params)  # the truth: only the head moves
    got = rows(p, STE("clipped"), SGD, 1)
    moved = got[1][1]["params"]["head.weight"]
    torch.testing.assert_close(moved, p.params["head.weight"] - 0.1 * grad["head.weight"])


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("estimator", [STE("clipped"), NES(samples=4)])
def test_resume_from_any_row_is_exact(name, estimator):
    whole = rows(problem(name), estimator, ADAM, 6, evaluate_every=2)
    for at in (0, 3, 6):
        progress = train.Progress(**whole[at][1])
        again = rows(problem(name), estimator, ADAM, 6, progress, evaluate_every=2)
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


def test_the_problem_is_left_as_it_was():
    p = problem()
    before = {k: v.clone() for k, v in p.params.items()}
    rows(p, STE("clipped"), ADAM, 3)
    for k, v in p.params.items():
        assert torch.equal(v, before[k])


def test_only_what_moves_moves():
    p = problem(moving=("head.*",))
    before = p.network.fc1.weight.detach().clone()
    got = rows(p, STE("clipped"), ADAM, 3)
    assert set(got[-1][1]["params"]) == {"head.weight", "head.bias"}
    assert torch.equal(p.network.fc1.weight.detach(), before)


def test_evals_add_up():
    got = rows(problem(), STE("clipped"), ADAM, 4)
    assert [r["evals"] for r, _ in got] == [3.0, 6.0, 9.0, 12.0, 15.0]


def test_divergence_is_an_outcome_that_names_the_first_bad():
    class Exploding:
        target = "none"

        def init(self, params):
            return {}

        def __call__(self, objective, params, state, generator):
            from sa.types import Estimate

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


def test_a_parent_gives_its_point_and_must_fit():
    p = problem()
    trained = rows(p, STE("clipped"), ADAM, 5)[-1][1]
    child = train.start(problem(), trained)
    assert child.step == 0
    assert torch.equal(child.params["fc1.weight"], trained["params"]["fc1.weight"])
    del trained["params"]["fc1.weight"]
    with pytest.raises(ValueError, match="fc1.weight.*another network"):
        train.start(problem(), trained)


def test_of_a_parent_only_what_moves_moves_and_the_rest_is_the_parents_too():
    trained = rows(problem("cnn"), STE("clipped"), ADAM, 3)[-1][1]
    p = problem("cnn", moving=("head.*",))
    got = rows(p, STE("clipped"), ADAM, 2, train.start(p, trained))
    assert set(got[-1][1]["params"]) == {"head.weight", "head.bias"}
    assert torch.equal(p.frozen["conv1.weight"], trained["params"]["conv1.weight"])
    whole = problem("cnn")
    start = train.start(whole, trained)
    assert got[0][0]["loss"] == rows(whole, STE("clipped"), ADAM, 2, start)[0][0]["loss"]
    del trained["buffers"]["norm1.running_mean"]
    with pytest.raises(ValueError, match="norm1.running_mean"):
        train.start(p, trained)


def test_training_learns():
    got = rows(problem(batch_size=64), STE("clipped"), ADAM, 150)
    assert (
        got[-1][0]["test/accuracy"]
        > 0.6
        > 0.3
        > rows(problem(), STE(), ADAM, 1)[-1][0]["test/accuracy"]
    )
