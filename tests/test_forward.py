"""Tests of chunk sizes, the rows of a minibatch, and the defaults of a plain function."""

import pytest
import torch

from sa.objective.batches import Batches
from sa.objective.function import RowFunction, from_function
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.types import Batch


def rows(n):
    index = torch.arange(n, dtype=torch.float64)
    return Batch(index.view(n, 1), index)


def test_a_plain_function_has_nothing_of_a_network():
    f = from_function(lambda p: (p["w"] ** 2).sum())
    point = {"w": torch.tensor([3.0, 4.0])}
    assert f.forward.buffers == f.forward.norms == f.forward.keeps(point) == {}
    assert f.forward.latent == f.forward.asleep() == f.layers(point, 1) == []
    assert f.double() is None and f.evaluation is None and not f.forward.steady
    assert f.flip_rate(point, point) is None
    assert f.forward.first_bad({"w": torch.tensor([1.0, torch.nan])}, f.batch) == "w"


@pytest.mark.parametrize("memory", [1, 800, 8_000, 1 << 20])
def test_a_plan_fits_into_memory_and_never_splits_coupled_rows(memory):
    for coupled in (False, True):
        f = RowFunction(lambda p, b: b.targets, numerics=Numerics(memory=memory), coupled=coupled)
        points, together = f.chunk_sizes(rows=50, points=20, width=2)
        assert 1 <= points <= 20 and 1 <= together <= 50
        assert 8 * 2 * points * together <= memory or points == 1
        assert together == 50 or (not coupled and 8 * 2 * together <= max(memory, 16))


@pytest.mark.parametrize("memory", [1, 100, 1 << 20])
def test_the_loss_is_the_mean_over_rows_for_any_memory(memory):
    forward = RowFunction(
        lambda p, b: (b.inputs @ p["w"] - b.targets).square(), numerics=Numerics(memory=memory)
    )
    f, w = Objective(forward, rows(7)), torch.tensor([0.5], dtype=torch.float64)
    index = torch.arange(7, dtype=torch.float64)
    assert float(f.value({"w": w})) == float((index / 2).square().mean())
    value, grad = f.value_and_grad({"w": w})
    assert value == f.value({"w": w})
    torch.testing.assert_close(grad["w"], -(index.square().mean()).view(1))  # 2 (w - 1) mean x^2


def test_an_epoch_has_each_row_at_most_once_and_depends_on_seed_and_step_alone():
    for seed in (0, 1):
        batches = Batches(rows(10), 3, (seed,))
        first = [batches(step).targets for step in range(3)]
        assert len(torch.cat(first).unique()) == 9
        later = batches(5).targets
        assert not torch.equal(torch.cat(first[:2]), torch.cat([batches(3).targets, later]))
        again = Batches(rows(10), 3, (seed,))
        assert torch.equal(again(5).targets, later) and torch.equal(again(0).targets, first[0])
    every = Batches(rows(10), None, (0,))
    assert every(7) is every.train


def test_replicas_see_the_rows_that_each_seed_alone_sees():
    data, seeds = rows(10), (4, 5, 6)
    stacked = Batch(*(x.unsqueeze(1).expand(-1, 3, *x.shape[1:]) for x in data))
    many = Batches(stacked, 4, seeds, stacked=True)
    for step in (0, 1, 2):
        batch = many(step)
        for i, seed in enumerate(seeds):
            alone = Batches(data, 4, (seed,))(step)
            assert torch.equal(batch.inputs[:, i], alone.inputs)
            assert torch.equal(batch.targets[:, i], alone.targets)
