"""Tests of random directions, the null hypothesis of every comparison (T14 of docs/truths.md)."""

import torch

from sa.estimator.random import Random
from sa.objective.function import from_function


def test_t14_cosines_of_random_directions_have_mean_0_and_spread_1_over_sqrt_d():
    dim, count = 200, 500
    g = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(12345))
    f = from_function(lambda p: p["w"] @ g)
    point = {"w": torch.zeros(dim, dtype=torch.float64)}
    got = torch.stack(
        [Random()(f, point, {}, torch.Generator().manual_seed(s)).grad["w"] for s in range(count)]
    )
    cosines = got @ g / (got.norm(dim=1) * g.norm())
    assert abs(float(cosines.mean())) < 4 * dim**-0.5 / count**0.5
    assert abs(float(cosines.std()) * dim**0.5 - 1) < 4 / (2 * count) ** 0.5


def test_a_random_direction_does_not_depend_on_the_loss():
    point = {"w": torch.zeros(3, dtype=torch.float64)}
    one, two = (
        Random()(from_function(f), point, {}, torch.Generator().manual_seed(1)).grad["w"]
        for f in (lambda p: p["w"].sum(), lambda p: -5 * p["w"].sum() + 1)
    )
    assert torch.equal(one, two)
