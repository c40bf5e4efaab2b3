"""Surrogate slopes against their table (truth T11) and the seam's default, the true zero."""

import math

import pytest
import torch

from sa import surrogate
from sa.estimator import _slopes
from sa.estimator.ste import STE
from sa.objective import from_function

TABLE = {  # m at a = 0, 0.5, 1 (on the window's border), 1 + tiny, -0.5, with default scales
    "identity": [1, 1, 1, 1, 1],
    "clipped": [1, 1, 1, 0, 1],
    "tanh": [1 / math.cosh(a) ** 2 for a in (0, 0.5, 1, 1, 0.5)],
    "poly": [2, 1, 0, 0, 1],
    "swish": [
        5 * (2 - 5 * a * math.tanh(2.5 * a)) / (1 + math.cosh(5 * a)) for a in (0, 0.5, 1, 1, 0.5)
    ],
}


@pytest.mark.parametrize("name", list(_slopes.SURROGATES))
def test_t11_table(name):
    a = torch.tensor([0.0, 0.5, 1.0, 1.0 + 1e-12, -0.5], dtype=torch.float64)
    f = from_function(lambda p: surrogate.sign(p["a"]).sum())
    got = STE(name)(f, {"a": a}, {}, torch.Generator()).grad["a"]
    torch.testing.assert_close(got, torch.tensor(TABLE[name], dtype=torch.float64))


def test_table_covers_the_settings():
    assert set(TABLE) == set(_slopes.SURROGATES)


@pytest.mark.parametrize("name", ["clipped", "tanh", "poly", "swish"])
def test_slopes_have_the_height_of_the_step(name):
    # a surrogate of sign rises by about 2 in all: integral of m over the line
    a = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    m = _slopes.rule(name)(a)
    assert float(torch.trapezoid(m, a)) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scales(scale):
    a = torch.tensor([0.3, 0.5, 0.6, 2.0, 2.1], dtype=torch.float64)
    assert _slopes.rule("clipped", scale)(a).tolist() == [float(abs(v) <= scale) for v in a]
    tanh = scale * (1 - torch.tanh(scale * a) ** 2)
    torch.testing.assert_close(_slopes.rule("tanh", scale)(a), tanh)


def test_swish_is_finite_far_out():
    a = torch.tensor([-1e4, 1e4], dtype=torch.float32)
    assert _slopes.rule("swish")(a).abs().max() < 1e-6


def test_without_a_rule_the_truth_is_zero():
    f = from_function(lambda p: (surrogate.sign(p["w"]) * 3).sum())
    value, grad = f.value_and_grad({"w": torch.tensor([0.2, -0.7])})
    assert float(value) == 0.0 and not grad["w"].any()


def test_a_rule_ends_with_its_block():
    with surrogate.backward(_slopes.rule("identity")):
        pass
    x = torch.tensor([0.5], requires_grad=True)
    surrogate.sign(x).sum().backward()
    assert x.grad.item() == 0.0


def test_rule_under_vmap_equals_the_loop():
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss(row):
        return (surrogate.sign(row) * torch.arange(3.0)).sum()

    with surrogate.backward(_slopes.rule("tanh")):
        mapped = torch.vmap(torch.func.grad(loss))(x)
    expected = (1 - torch.tanh(x) ** 2) * torch.arange(3.0)
    torch.testing.assert_close(mapped, expected)


def test_sign_of_zero_is_one():
    assert surrogate.sign(torch.tensor([0.0, -0.0])).tolist() == [1.0, 1.0]
