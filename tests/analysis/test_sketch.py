"""Tests that a sketch is linear, keeps squared distances on average and is repeatable."""

import torch

from sa.analysis.sketch import Sketch, sketched
from sa.objective.function import from_function
from sa.params import flatten, stream
from sa.types import Estimate


def vectors(dim=300):
    draw = stream(0, "vectors")
    return torch.randn(2, dim, generator=draw, dtype=torch.float64)


def test_a_sketch_is_linear():
    x, y = vectors()
    both = sketched(2 * x - 3 * y, 20, 0)
    torch.testing.assert_close(both, 2 * sketched(x, 20, 0) - 3 * sketched(y, 20, 0))


def test_a_sketch_keeps_squared_distances_on_average():
    x, y = vectors()
    true, m, n = float((x - y).square().sum()), 25, 600
    seen = torch.stack([(sketched(x, m, s) - sketched(y, m, s)).square().sum() for s in range(n)])
    assert abs(float(seen.mean()) - true) < 4 * float(seen.std()) / n**0.5
    assert float(seen.std()) < 1.2 * (2 / m) ** 0.5 * true  # 1.2 allows for the error of the spread
    assert float(seen.std()) > 0.5 * (2 / m) ** 0.5 * true  # a sketch is not an exact isometry


def test_a_sketch_is_a_matrix_with_one_entry_of_plus_or_minus_1_in_each_column():
    eye = torch.eye(40, dtype=torch.float64)
    matrix = torch.stack([sketched(e, 7, 3) for e in eye], 1)
    assert (matrix.abs().sum(0) == 1).all() and set(matrix.unique().tolist()) == {-1, 0, 1}
    x = vectors(40)[0]
    torch.testing.assert_close(sketched(x, 7, 3), matrix @ x)


def test_a_sketch_depends_on_its_own_seed_alone():
    f = from_function(lambda p: p["w"].square().sum())
    at = {"w": vectors()[0].view(30, 10)}
    estimate = Estimate(*f.value_and_grad(at), 3.0)
    one, two = (Sketch(m=9)(f, at, estimate, stream(s, "a"))["sketch/point"] for s in (0, 1))
    assert one == two == sketched(flatten(at), 9, 0).tolist()
    assert Sketch(m=9, seed=1)(f, at, estimate, stream(0, "a"))["sketch/point"] != one
