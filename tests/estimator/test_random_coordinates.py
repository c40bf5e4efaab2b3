"""Tests of random coordinates against CDG, of which they are a random part."""

import torch
from test_laws import run

from sa.estimator.cdg import CDG
from sa.estimator.random_coordinates import RandomCoordinates
from sa.objective.function import from_function
from sa.params import flatten


def test_random_coordinates_with_every_coordinate_equal_cdg(quadratic):
    f = from_function(lambda p: quadratic(p) ** 3, vectorized=True)
    for samples in (6, 99):
        got = run(RandomCoordinates(epsilon=0.3, samples=samples), f, quadratic.point)
        truth = run(CDG(epsilon=0.3), f, quadratic.point)
        torch.testing.assert_close(flatten(got.grad), flatten(truth.grad), rtol=1e-12, atol=0)
        assert got.evals == 13
        assert got.info == {"coordinates": 6, "cosine_expected": 1, "nonfinite": 0}


def test_variance_and_cosine_of_random_coordinates_are_their_formulas():
    g = torch.randn(40, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    f, at = from_function(lambda p: g @ p["w"], vectorized=True), {"w": torch.zeros_like(g)}
    draws = torch.stack(
        [run(RandomCoordinates(samples=10), f, at, seed).grad["w"] for seed in range(1000)]
    )
    assert ((draws != 0).sum(1) == 10).all()
    errors = (draws - g).square().sum(1) / (g @ g)
    assert abs(float(errors.mean()) - 3) < 4 * float(errors.std()) / 1000**0.5  # D/k - 1
    squares = (draws @ g) ** 2 / (draws.square().sum(1) * (g @ g))  # E cos^2 = k/D exactly
    assert abs(float(squares.mean()) - 0.25) < 4 * float(squares.std()) / 1000**0.5
