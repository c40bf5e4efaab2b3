"""Tests of the discrete gradient against a naive search over each coordinate and each shift."""

from dataclasses import replace

import pytest
import torch
from test_laws import problem, run

from sa.estimator.discrete_gradient import HAIR, DiscreteGradient, nearest
from sa.flips import chain
from sa.network.structure import Link, Step, Structure
from sa.objective.criterion import mse
from sa.objective.function import from_function
from sa.params import flatten
from sa.types import Batch

STEPS = {"sign": Step((0.0,), (-1.0, 1.0)), "ternary": Step((-0.5, 0.5), (-1.0, 0.0, 1.0))}


def small(step, rows=6, scale=1.0):
    """Return a chain with a bias and two step layers, its loss as plain code, and its point."""
    g = torch.Generator().manual_seed(4)
    x, y = (torch.randn(rows, 3, generator=g, dtype=torch.float64) for _ in range(2))
    names = ("a", "b", "c")
    point = {k: torch.randn(3, 3, generator=g, dtype=torch.float64) * 0.4 for k in names}
    point["b.bias"] = torch.randn(3, generator=g, dtype=torch.float64) * 0.3

    def act(z):
        out = torch.full_like(z, step.levels[0])
        for t, low, high in zip(step.thresholds, step.levels[:-1], step.levels[1:], strict=True):
            out = torch.where(z >= t, out + (high - low), out)
        return out

    def losses(outputs, targets):
        return scale * (outputs - targets).square().mean(1)

    def loss(p):
        return losses(act(act(x @ p["a"].T) @ p["b"].T + p["b.bias"]) @ p["c"].T, y).mean()

    links = [Link("a", None, step), Link("b", "b.bias", step), Link("c")]
    f = from_function(loss, vectorized=True)
    plain = f.rows
    f.batch = Batch(x, y)
    f.rows = lambda p, batch: plain(p, batch).expand(batch.rows)
    f.forward.structure = Structure(
        links, criterion=losses, quadratic=scale == 1, why_not_a_chain=None
    )
    return f, loss, point


def naive(loss, point, names, epsilon):
    """Return the greedy move and the number of coordinates that can lower the loss.

    The smallest shift that lowers the loss is found on a grid, then refined by bisection.
    """
    base, flips = float(loss(point)), []
    grid = torch.linspace(0, epsilon, 2001, dtype=torch.float64)
    for name in names:
        for i in range(point[name].numel()):

            def at(shifts, name=name, i=i):
                stack = point[name].flatten().repeat(len(shifts), 1)
                stack[:, i] += shifts
                stack = stack.view(-1, *point[name].shape)
                return torch.vmap(lambda w: loss(point | {name: w}))(stack)

            lower = torch.stack([at(grid), at(-grid)]) < base - 1e-9
            if not lower.any():
                continue
            first = int(lower.any(0).nonzero()[0])
            sign = 1 if lower[0, first] else -1
            low, high = float(grid[first - 1]), float(grid[first])
            for _ in range(40):
                mid = (low + high) / 2
                there = float(at(torch.tensor([sign * mid]))) < base - 1e-9
                low, high = (low, mid) if there else (mid, high)
            gain = base - float(at(torch.tensor([sign * (high + HAIR * epsilon)])))
            flips.append((gain / high**2, sign * high, name, i))
    move, spent = {k: torch.zeros_like(v) for k, v in point.items()}, 0.0
    for _, shift, name, i in sorted(flips, key=lambda x: -float(f"{x[0]:.6g}")):
        spent += shift**2
        if spent > epsilon**2:
            break
        move[name].view(-1)[i] = shift
    return move, len(flips)


@pytest.mark.parametrize("epsilon", [0.1, 0.6])
@pytest.mark.parametrize("step", STEPS)
def test_discrete_gradient_equals_a_naive_search(step, epsilon):
    f, loss, point = small(STEPS[step])
    got = run(DiscreteGradient(epsilon), f, point)
    move, candidates = naive(loss, point, ("a", "b", "b.bias"), epsilon)
    assert got.info["candidates"] == candidates > 2
    assert 0 < got.info["flips"] == sum(int((m != 0).sum()) for m in move.values())
    assert epsilon == 0.1 or got.info["flips"] < candidates  # the budget excludes some candidates
    for k, m in move.items():
        torch.testing.assert_close(-got.grad[k], m, rtol=0, atol=3e-6 * epsilon)
    after = float(loss({k: v - got.grad[k] for k, v in point.items()}))
    assert after == pytest.approx(float(got.value) - got.info["decrease"], abs=1e-12)
    assert got.info["length"] == pytest.approx(float(flatten(got.grad).norm()))
    assert got.info["length"] <= epsilon


def test_discrete_gradient_draws_nothing_and_does_not_change_with_the_loss_scale():
    f, _, point = small(STEPS["sign"])
    one, again = (run(DiscreteGradient(0.6), f, point, seed) for seed in (0, 1))
    assert torch.equal(flatten(one.grad), flatten(again.grad))  # the seed has no effect
    thrice = run(DiscreteGradient(0.6), small(STEPS["sign"], scale=3.0)[0], point)
    torch.testing.assert_close(flatten(thrice.grad), flatten(one.grad))
    assert thrice.info["decrease"] == pytest.approx(3 * one.info["decrease"])
    assert not one.grad["c"].any()  # the last layer does not move
    assert DiscreteGradient().target == "none"


def test_every_profile_gives_the_loss_in_the_middle_of_each_piece():
    p = problem()
    f = p.objective(p.batch(0))
    f.forward.numerics = replace(f.forward.numerics, memory=1 << 12)  # several blocks of rows
    seen = list(f.profiles(p.params, 0.3))
    assert len(seen) == sum(p.params[f"fc{i}.weight"].numel() for i in (1, 2))
    for one in seen:
        here = one.losses[int((one.shifts <= 0).sum())]
        torch.testing.assert_close(here, f.value(p.params))
    for one in seen[::7]:  # the loss in the middle of every piece
        ends = torch.cat([one.shifts.new_tensor([-0.3]), one.shifts, one.shifts.new_tensor([0.3])])
        wide = ends.diff() > 1e-9  # in narrower pieces rounding decides where the middle lies
        for middle, loss in zip(((ends[:-1] + ends[1:]) / 2)[wide], one.losses[wide], strict=True):
            moved = {k: v.clone() for k, v in p.params.items()}
            moved[one.name][one.at] += middle
            torch.testing.assert_close(loss, f.value(moved))
    assert sum(one.evals for one in seen) > 2


def test_nearest_returns_the_shortest_shift_that_lowers_the_loss():
    shifts = torch.tensor([-0.3, -0.1, 0.2, 0.2 + 1e-9, 0.4], dtype=torch.float64)
    # the piece from 0.2 to 0.2 + 1e-9 is lower but too narrow; that from -0.3 to -0.1 is not lower
    losses = torch.tensor([0.5, 1.0, 1.0, 0.1, 1.2, 0.2], dtype=torch.float64)
    assert nearest(shifts, losses, 1.0) == pytest.approx((-0.3 - HAIR, 0.5))
    assert nearest(shifts, losses, 0.31) == pytest.approx((-0.3 - 0.31 * HAIR, 0.5))
    assert nearest(shifts[1:4], losses[1:5], 0.25) is None
    losses[0] = 1.0
    assert nearest(shifts, losses, 1.0) == pytest.approx((0.4 + HAIR, 0.8))
    at_zero = torch.tensor([0.0, 5e-324], dtype=torch.float64)  # one jump at 0 and one just after
    three = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    assert nearest(at_zero, three, 1.0) == pytest.approx((HAIR, 1.0))


def test_losses_without_profiles_are_refused(quadratic):
    with pytest.raises(ValueError, match="discrete_gradient is not possible: .*plain function"):
        run(DiscreteGradient(), from_function(quadratic), quadratic.point)
    with pytest.raises(ValueError, match="needs a fully connected layer followed by a step"):
        DiscreteGradient().requires(Structure([Link("w")], why_not_a_chain=None))


def test_discrete_gradient_moves_no_convolution_and_no_last_layer():
    g = torch.Generator().manual_seed(0)
    sign = STEPS["sign"]
    links = [Link("k", None, sign, padding=1), Link("a", None, sign), Link("head")]
    shapes = {"k": (2, 1, 3, 3), "a": (3, 32), "head": (2, 3)}
    point = {k: torch.randn(v, generator=g, dtype=torch.float64) for k, v in shapes.items()}
    x = torch.randn(20, 1, 4, 4, generator=g, dtype=torch.float64)
    f = from_function(lambda p: p["k"].sum())
    f.batch = Batch(x, torch.randn(20, 2, generator=g, dtype=torch.float64))
    f.forward.structure = Structure(links, criterion=mse, quadratic=True, why_not_a_chain=None)
    f.rows = lambda p, batch: chain.run(links, p, batch, mse, True).losses
    f.forward.vectorized = False
    got = run(DiscreteGradient(0.5), f, point)
    assert not got.grad["k"].any() and not got.grad["head"].any() and got.grad["a"].any()
    assert got.info["decrease"] > 0
    only = Structure([links[0], Link("head", average=True)], why_not_a_chain=None)
    with pytest.raises(ValueError, match="needs a fully connected layer"):
        DiscreteGradient().requires(only)
