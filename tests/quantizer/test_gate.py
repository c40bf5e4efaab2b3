"""Tests of gates: the share they keep, its derivative, and gradients against all states."""

import itertools
import math

import pytest
import torch

from sa import surrogate
from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.estimator.gumbel import Gumbel
from sa.estimator.reinforce import Reinforce
from sa.estimator.rloo import RLOO
from sa.estimator.sr_ste import SRSTE
from sa.model.mlp import MLP
from sa.model.toy_mlp import ToyMLP
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import stream
from sa.quantizer.gate import Gate
from sa.quantizer.none import Identity
from sa.types import Batch, Slots, Splits

F64 = torch.float64


def alpha(q, keep):
    return torch.logit(torch.tensor([(keep - q.floor) / (1 - q.floor)], dtype=F64))


@pytest.mark.parametrize("temperature", [0.01, 0.5, 100.0])
@pytest.mark.parametrize("keep", [0.06, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("granularity", ["sample", "tensor"])
def test_the_mean_probability_of_a_gate_is_its_kept_share(
    temperature, keep, granularity, generator
):
    x = torch.randn(5, 40, 2, 3, generator=generator, dtype=F64)
    q = Gate(temperature=temperature, granularity=granularity)
    phi = q.logits(x, alpha(q, keep))
    assert phi.shape == (5, 40, 1, 1)
    torch.testing.assert_close(torch.sigmoid(phi).mean(1), torch.full((5, 1, 1), keep, dtype=F64))
    same = torch.equal(phi, phi[:1].expand(phi.shape))
    assert same == (granularity == "tensor") == q.coupled


def test_low_temperatures_keep_the_largest_and_high_ones_treat_all_alike(generator):
    x = torch.rand(3, 10, generator=generator, dtype=F64)
    q = Gate(temperature=0.01)
    with torch.no_grad():
        out = q(x, alpha(q, 0.3))
    largest = x >= x.topk(3).values[:, -1:]
    assert torch.equal(out, x * largest)
    q = Gate(temperature=1e6)
    p = torch.sigmoid(q.logits(x, alpha(q, 0.3)))
    torch.testing.assert_close(p, torch.full_like(p, 0.3), atol=1e-5, rtol=0)


def test_the_derivative_of_the_kept_share_equals_differences(generator):
    x, q = torch.randn(2, 7, generator=generator, dtype=F64), Gate(temperature=0.7)
    at = alpha(q, 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: q.logits(x, a), at)
    p = torch.sigmoid(q.logits(x, at))
    (slope,) = torch.autograd.grad(p.mean(), at)
    torch.testing.assert_close(slope, torch.autograd.grad(q.keep(at).sum(), at)[0])


def test_gates_open_with_their_stated_probability(generator):
    x, q = torch.rand(2, 6, generator=generator, dtype=F64) + 0.1, Gate()
    at, n, total = alpha(q, 0.4), 1000, torch.zeros(2, 6, dtype=F64)
    unit = lambda k, phi: surrogate.hard_sign(  # noqa: E731
        torch.sigmoid(phi) - torch.rand(phi.shape, generator=generator, dtype=F64)
    )
    for _ in range(n):
        with surrogate.sampling(unit):
            total += q(x, at) / x
    p = torch.sigmoid(q.logits(x, at))
    assert ((total / n - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


def problem(**settings):
    slots = Slots(Identity(), Gate(start_at=0.6, **settings))
    task = Task(model=MLP(quantizer=slots, shape=(1, 8, 8), hidden=(4,)), dataset=Digits())
    g = stream(3)
    rows = Batch(torch.randn(3, 1, 8, 8, generator=g, dtype=F64), torch.tensor([0, 4, 9]))
    return prepare(task, 0, Splits(rows, rows))


def exact(p):
    """Return the gradient of the expected loss, by all states of a row's four gates."""
    f = p.objective(p.batch(0))
    leaves = {k: v.clone().requires_grad_() for k, v in p.params.items()}
    total = torch.zeros((), dtype=F64)
    for states in itertools.product((-1.0, 1.0), repeat=4):
        s, seen = torch.tensor(states, dtype=F64).expand(3, 4), []
        with surrogate.sampling(lambda k, phi, s=s, seen=seen: seen.append(phi) or s):
            losses = f.rows(leaves, f.batch)
        total = total + (torch.sigmoid(s * seen[0]).prod(1) * losses).mean()
    got = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, got, strict=True))


@pytest.mark.parametrize("estimator", [Reinforce(), RLOO()], ids=["reinforce", "rloo"])
def test_score_function_estimators_are_unbiased_for_gates(estimator):
    p, name = problem(), "act1.quantize.alpha"
    for k in ("fc1.weight", "head.weight"):
        p.params[k].mul_(4.0)  # larger weights make the loss depend more on the gates
    law, f, n = exact(p), p.objective(p.batch(0)), 500
    draws = [estimator(f, p.params, {}, stream(i)).grad for i in range(n)]
    for key in (name, "head.bias"):
        some = torch.stack([d[key] for d in draws])
        error = some.std(0) / math.sqrt(n)
        assert ((some.mean(0) - law[key]).abs() < 4.5 * error).all(), key
        if isinstance(estimator, RLOO):  # its baseline lowers the noise below the gradient
            assert (law[key].abs() > 4.5 * error).any(), key


@pytest.mark.parametrize("estimator", [SRSTE(surrogate="identity"), Gumbel(temperature=1.0)])
def test_surrogate_gradients_reach_the_kept_share(estimator):
    p = problem()
    f = p.objective(p.batch(0))
    got = estimator(f, p.params, {}, stream(0)).grad["act1.quantize.alpha"]
    assert got.isfinite().all() and got.any()


def test_the_budget_penalty_is_0_at_or_below_the_budget():
    p = problem(price=2.0, budget=0.5)
    plain, name = problem(), "act1.quantize.alpha"
    for keep, law in ((0.6, 0.2), (0.9, 0.8), (0.4, 0.0)):
        at = p.params | {name: alpha(Gate(), keep)}
        losses = [float(q.objective(q.batch(0)).value(at)) for q in (p, plain)]
        assert losses[0] - losses[1] == pytest.approx(law)
        told = p.evaluation.evaluate(at)
        assert told["keep"] == told["keep/act1"] == pytest.approx(keep)
        assert told["train/loss"] == pytest.approx(plain.evaluation.evaluate(at)["train/loss"])
    bare = ToyMLP(quantizer=Slots(Identity(), Identity()), dim=2)
    without = prepare(Task(model=bare, dataset=Gaussian(dim=2, n=4)), 0)
    assert "keep" not in without.evaluation.evaluate({})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"start_at": 0.01}, "more than floor=0.05"),
        ({"price": 1.0, "budget": 0.01}, "no layer keeps less than floor"),
        ({"temperature": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_work_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Gate(**wrong)
    with pytest.raises(ValueError, match="quantizer/activation=gate"):
        Gate().build(torch.ones(2, 2))
