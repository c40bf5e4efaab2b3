"""Tests of local_nes against the exact enumeration of all states of all units, and against NES."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import component, studied
from test_laws import run

from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.estimator.local_nes import LocalNES
from sa.estimator.nes import NES
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Link, Step, Structure
from sa.objective.criterion import ce, mse
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import flatten
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Batch, Slots

SIGN = Step((0.0,), (-1.0, 1.0))
ZERO_ONE = Step((0.3,), (0.0, 1.0))


def network(hidden, step, criterion, bias, dim=3, out=2, rows=4):
    """Return a tiny chain as an objective with its data, and its point."""
    g = torch.Generator().manual_seed(4)
    names = [f"l{i}" for i in range(hidden)]
    links = [Link(n, f"{n}.b" if bias else None, step) for n in names]
    links.append(Link("head", "head.b" if bias else None, None))
    point = {}
    for link in links:
        shape = (out if link.weight == "head" else dim, dim)
        point[link.weight] = torch.randn(shape, generator=g, dtype=torch.float64) * 0.4
        if link.bias:
            point[link.bias] = torch.randn(shape[0], generator=g, dtype=torch.float64) * 0.3
    x = torch.randn(rows, dim, generator=g, dtype=torch.float64)
    y = (
        torch.randint(0, out, (rows,), generator=g)
        if criterion is ce
        else torch.randn(rows, out, generator=g, dtype=torch.float64)
    )
    f = from_function(lambda p: p["head"].sum())
    f.batch = Batch(x, y)
    f.forward.structure = Structure(
        links, criterion=criterion, quadratic=criterion is mse, why_not_a_chain=None
    )
    return f, point


def smoothed(f, point, sigma):
    """Return the exact smoothed loss, differentiable, summed over all states of hidden units."""
    x, y = f.batch
    links, total = f.structure.links, 0.0
    dim = point["head"].shape[1]
    for states in itertools.product(
        *[list(itertools.product((0, 1), repeat=dim)) for _ in links[:-1]]
    ):
        a, chance = x, torch.ones(len(x), dtype=torch.float64)
        for link, state in zip(links, states, strict=False):
            z, norm = a @ point[link.weight].T, a.square().sum(1, keepdim=True)
            if link.bias:
                z, norm = z + point[link.bias], norm + 1
            spread = sigma * norm.clamp(min=1e-30).sqrt()  # a unit with zero inputs has no noise
            up = torch.special.ndtr((z - link.step.thresholds[0]) / spread)
            s = torch.tensor(state, dtype=torch.float64)
            chance = chance * (up * s + (1 - up) * (1 - s)).prod(1)
            low, high = link.step.levels
            a = (low + (high - low) * s).expand(len(x), -1)
        head, norm = links[-1], a.square().sum(1)
        out = a @ point["head"].T
        if head.bias:
            out, norm = out + point[head.bias], norm + 1
        # the noise of the last layer adds its variance to the squared error
        total = total + (chance * (f.structure.criterion(out, y) + sigma**2 * norm)).mean()
    return total


def truth(f, point, sigma):
    leaves = {k: v.clone().requires_grad_() for k, v in point.items()}
    grads = torch.autograd.grad(smoothed(f, leaves, sigma), list(leaves.values()))
    return flatten(dict(zip(leaves, grads, strict=True)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("step", [SIGN, ZERO_ONE], ids=["sign", "zero-one"])
@pytest.mark.parametrize("form", ["generic", "exact_tail"])
@pytest.mark.parametrize("hidden", [1, 2])
def test_local_nes_is_unbiased_against_all_states_enumerated(hidden, form, step, bias):
    sigma, count = 0.5, 400
    f, point = network(hidden, step, mse, bias)
    got = torch.stack(
        [flatten(run(LocalNES(sigma, 8, form), f, point, s).grad) for s in range(count)]
    )
    law, error = truth(f, point, sigma), got.std(0) / count**0.5
    assert ((got.mean(0) - law).abs() <= 4.5 * error + 1e-12).all()
    if hidden == 1 and form == "exact_tail":  # no unit is sampled, so the estimate is exact
        torch.testing.assert_close(got[0], law, rtol=1e-10, atol=1e-12)
    # the test has enough draws: the gradient for another sigma is many errors away
    assert ((got.mean(0) - truth(f, point, 0.25)).abs() > 6 * error + 1e-6).any()


@pytest.mark.parametrize("criterion", [mse, ce])
def test_local_nes_and_nes_have_the_same_mean(criterion):
    sigma = 0.5
    f, point = network(2, SIGN, criterion, True, rows=16)
    x, y = f.batch

    def loss(p):
        a = x
        for link in f.structure.links:
            a = a @ p[link.weight].T + p[link.bias]
            a = torch.where(a >= 0, 1.0, -1.0).double() if link.step else a
        return criterion(a, y).mean()

    plain = from_function(loss, vectorized=True)
    nes = torch.stack([flatten(run(NES(sigma, 4000), plain, point, s).grad) for s in range(20)])
    own = torch.stack([flatten(run(LocalNES(sigma), f, point, s).grad) for s in range(400)])
    error = (nes.var(0) / 20 + own.var(0) / 400) ** 0.5
    assert ((nes.mean(0) - own.mean(0)).abs() <= 4.5 * error).all()


def test_t4_local_nes_of_one_sign_unit_is_its_smoothed_gradient():
    # L = mean (sign(w.x) c - t)^2 with c = 1: gradient -2 t d/dw E sign = -4 t phi(z) x/(s)
    f, point = network(1, SIGN, mse, False, dim=3, out=1, rows=1)
    point["head"] = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    x, t = f.batch.inputs[0], float(f.batch.targets)
    sigma = 0.7
    s = sigma * x.norm()
    z = float(point["l0"][0] @ x / s)
    law = -4 * t * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * x / s
    torch.testing.assert_close(run(LocalNES(sigma), f, point).grad["l0"][0], law)


def test_local_nes_scales_with_the_loss_and_ignores_a_constant():
    f, point = network(2, SIGN, ce, True)
    one = flatten(run(LocalNES(), f, point).grad)
    f.forward.structure = replace(f.structure, criterion=lambda y, t: 3 * ce(y, t) + 100)
    torch.testing.assert_close(
        flatten(run(LocalNES(), f, point).grad), 3 * one, rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("form", ["generic", "exact_tail"])
def test_local_nes_of_zero_inputs_has_no_noise(form):
    """Weight noise does not move a unit whose inputs are all 0: its state is sign(0) = +1."""
    f, point = network(1, SIGN, mse, False)
    f.batch = Batch(torch.zeros_like(f.batch.inputs), f.batch.targets)
    got = run(LocalNES(sigma=0.3, samples=4, form=form), f, point).grad
    up = torch.ones(len(f.batch.inputs), 3, dtype=torch.float64)
    slope = 2 * (up @ point["head"].T - f.batch.targets) / 2 / len(up)
    torch.testing.assert_close(got["head"], slope.T @ up)
    assert not got["l0"].any()


def enumerated(f, point, sigma):
    """Return the exact smoothed loss of a chain of signs without biases, one or two layers deep."""
    x, y = f.batch
    *hidden, last = (point[link.weight] for link in f.structure.links)
    width = last.shape[1]
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=width))).double()

    def chances(z, spread):  # (..., width) -> probability of every state (..., 2^width)
        up = torch.special.ndtr(z / spread).clamp(1e-300, 1)
        down = torch.special.ndtr(-z / spread).clamp(1e-300, 1)
        return torch.exp(up.log() @ (states.T > 0).double() + down.log() @ (states.T < 0).double())

    weight = chances(x @ hidden[0].T, sigma * x.norm(dim=1, keepdim=True))  # (rows, states)
    if len(hidden) == 2:
        weight = weight @ chances(states @ hidden[1].T, sigma * width**0.5)
    losses = (states @ last.T - y[:, None]).square().mean(2)  # without the last layer's noise
    return (weight * losses).sum(1).mean()


@pytest.mark.parametrize("form", ["generic", "exact_tail"])
@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.0])
def test_local_nes_is_unbiased_in_every_layer_at_width_8(sigma, form):
    """The z-scores of the mean of many draws are normal; the truth sums over 2^8 states a layer."""
    f, point = network(2, SIGN, mse, False, dim=8, rows=16)
    leaves = {k: v.clone().requires_grad_() for k, v in point.items()}
    truth = torch.autograd.grad(enumerated(f, leaves, sigma), list(leaves.values()))
    draws = [run(LocalNES(sigma, 32, form), f, point, s).grad for s in range(400)]
    for name, exact in zip(leaves, truth, strict=True):
        got = torch.stack([d[name] for d in draws])
        error = got.std(0) / len(got) ** 0.5
        z = (got.mean(0) - exact) / error.clamp(min=1e-12)
        print(f"sigma {sigma} {form} {name}: rms z {z.square().mean().sqrt():.2f}, "
              f"largest {z.abs().max():.2f} of {z.numel()}")  # fmt: skip
        assert z.abs().max() < 5 and z.square().mean().sqrt() < 1.6


def toy(**settings):
    slots = Slots(Identity(), Sign())
    model = ToyMLP(quantizer=slots, dim=6, hidden=2, out=6)
    return prepare(studied(model=model, dataset=Gaussian(dim=6, n=500), **settings), 0)


@pytest.mark.parametrize("form", ["generic", "exact_tail"])
def test_local_nes_has_a_third_of_the_error_of_nes_for_fewer_evals(form):
    p = toy()
    f = p.objective(p.batch(0))
    best = torch.stack(
        [flatten(run(LocalNES(0.1, 16), f, p.params, 1000 + s).grad) for s in range(50)]
    ).mean(0)
    own = run(LocalNES(0.1, 8, form), f, p.params)
    nes = run(NES(0.1, 20), f, p.params)
    errors = [float((flatten(g.grad) - best).norm() / best.norm()) for g in (own, nes)]
    assert own.evals < nes.evals and errors[0] < errors[1] / 3


def test_refusals_name_the_layer_and_what_to_use_instead(quadratic):
    with pytest.raises(ValueError, match="plain function.*estimator=nes"):
        run(LocalNES(), from_function(quadratic), quadratic.point)
    p = toy(moving=("fc1.*",))
    with pytest.raises(ValueError, match="head.weight"):
        run(LocalNES(), p.objective(p.batch(0)), p.params)
    for name, norm, why in [
        ("cnn", "none", "conv1.weight.*convolution.*nes"),
        ("cnn", "batch", "norm1.*batchnorm=running"),
        ("mlp", "batch", "norm1.*batchnorm=running"),
    ]:
        other = prepare(Task(model=component("model", name, norm=norm), dataset=Digits()), 0)
        with pytest.raises(ValueError, match=why):
            run(LocalNES(), other.objective(other.batch(0).part(0, 8)), other.params)
    f, point = network(1, Step((-0.5, 0.5), (-1.0, 0.0, 1.0)), mse, False)
    with pytest.raises(ValueError, match="two-level.*l0"):
        run(LocalNES(), f, point)
    f, point = network(1, SIGN, ce, False)
    with pytest.raises(ValueError, match="form=generic"):
        run(LocalNES(form="exact_tail"), f, point)
