"""Tests of ste_random: the mean of its random slopes, and that only its generator changes them."""

import pytest
import torch
from conftest import share
from test_laws import problem, run

from sa import surrogate
from sa.estimator import _slopes
from sa.estimator.ste import STE
from sa.estimator.ste_random import STERandom
from sa.objective.function import from_function
from sa.params import flatten

A = torch.tensor([-2.3, -0.9, -0.1, 0.0, 0.4, 0.4, 1.2], dtype=torch.float64)
LOSS = from_function(lambda p: surrogate.sign(p["a"]).sum())


def draws(estimator, count=3000, seed=0):
    """Return the slopes m(A) of count calls, (count, 7)."""
    g = torch.Generator().manual_seed(seed)
    return torch.stack([estimator(LOSS, {"a": A}, {}, g).grad["a"] for _ in range(count)])


def assert_mean(m, law):
    error = m.std(0) / len(m) ** 0.5
    assert ((m.mean(0) - law).abs() <= 4 * error + 1e-12).all()


def test_ste_random_draws_slopes_of_its_set_with_equal_probability():
    names = ("clipped", "poly", "relu")
    m = draws(STERandom(names))
    slopes = torch.stack([_slopes.rule(n)(A) for n in names])
    hits = (m[:, None] == slopes).all(2)  # (draws, slopes)
    assert hits.any(1).all() and hits.any(0).all()
    assert_mean(m, slopes.mean(0))


def test_random_clip_windows_average_to_a_triangle():
    m = draws(STERandom(("identity",), clip=2.0))
    assert set(m.unique().tolist()) == {0.0, 1.0}
    assert_mean(m, (1 - A.abs() / 2).clamp(min=0))


def test_noise_has_mean_1_and_the_stated_spread_and_is_equal_for_equal_inputs():
    m = draws(STERandom(("identity",), noise=0.5))
    assert_mean(m, torch.ones_like(A))
    assert_mean((m - 1) ** 2, torch.full_like(A, 0.25))
    assert torch.equal(m[:, 4], m[:, 5]) and not torch.equal(m[:, 3], m[:, 4])


@pytest.mark.parametrize("name", ["tanh", "ede"])
def test_ste_random_with_one_slope_and_no_noise_is_ste(name):
    p = problem()
    f, at = p.objective(p.batch(0)), share(0.7)
    one, two = (
        e(f, p.params, {}, torch.Generator(), at).grad for e in (STERandom((name,)), STE(name))
    )
    assert torch.equal(flatten(one), flatten(two))


def test_several_samples_are_the_mean_of_single_ones():
    settings = {"surrogates": ("clipped", "poly"), "clip": 3.0, "noise": 0.3}
    g = torch.Generator().manual_seed(3)
    each = [STERandom(**settings)(LOSS, {"a": A}, {}, g).grad["a"] for _ in range(5)]
    got = run(STERandom(**settings, samples=5), LOSS, {"a": A}, seed=3)
    torch.testing.assert_close(got.grad["a"], torch.stack(each).mean(0))
    assert got.evals == 15 and not torch.equal(each[0], each[1])


def test_splitting_rows_into_chunks_does_not_change_the_random_slopes():
    grads = []
    for memory in (1 << 26, 20_000):
        p = problem(memory=memory)
        e = STERandom(("tanh", "poly"), clip=1.5, noise=0.5, samples=3)
        grads.append(flatten(run(e, p.objective(p.batch(0)), p.params).grad))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_an_empty_set_of_slopes_is_refused_with_an_example():
    with pytest.raises(
        ValueError, match=r"estimator.surrogates=\[clipped,poly\].*there are: ident"
    ):
        STERandom(())
    with pytest.raises(ValueError, match="'clipped'"):
        STERandom(("cliped",))
