"""Tests that quantizers and steps return NaN for NaN, so a NaN weight never has a finite loss."""

import math

import pytest
import torch
from conftest import component, options

from sa import surrogate
from sa.dataset.gaussian import Gaussian
from sa.flips.chain import step_, stepped
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Step
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.quantizer._grid import rank
from sa.quantizer.fixed_point import FixedPoint, power_of_two
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Slots

MEMBERS = [
    (slot, n) for slot in ("weight", "activation", "gradient") for n in options(f"quantizer/{slot}")
]
RANGES = ("max", "k_sigma", "quantile", "mse")


def variants(slot, name):
    """Yield the quantizer with its default settings and with every choice of its range."""
    group = f"quantizer/{slot}"
    yield component(group, name)
    if name in ("uniform", "fixed_point"):
        for how in RANGES:
            yield component(group, name, range=how)
            yield component(group, name, range=how, train="fixed", eval="fixed")
    if name == "relaxed_bernoulli":
        for how in ("max", "quantile", "k_sigma", "fixed"):
            yield component(group, name, normaliser=how)
    if name == "xnor":
        for how in ("none", "tensor", "channel"):
            yield component(group, name, scale=how)
    if name in ("dorefa", "sawb", "lsq", "pact"):
        for bits in (2, 8):
            yield (
                component(group, name, **{"levels" if slot == "activation" else "bits": bits})
                if name == "dorefa" and slot == "activation"
                else component(group, name, bits=bits)
            )


def of_a_layer(q, slot, x):
    q = q.build(x if slot == "weight" else None) if hasattr(q, "build") else q
    if isinstance(q, torch.nn.Module):
        q.observing = True
        with torch.no_grad():
            q(x)
        q.observing = False
    return q


def states(generator):
    """Return a random unit like that of an estimator which samples."""
    return lambda k, phi: surrogate.hard_sign(phi + torch.randn(phi.shape, generator=generator))


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_a_nan_input_gives_a_nan_output(slot, name, generator):
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    bad = x.clone()
    bad[1, 2] = math.nan
    for spec in variants(slot, name):
        q = of_a_layer(spec, slot, x)
        assert q(x).isfinite().all(), spec
        assert q(bad)[1, 2].isnan(), spec
        with torch.no_grad():
            assert q(bad)[1, 2].isnan(), spec
        with surrogate.sampling(states(generator)):
            assert q(bad)[1, 2].isnan(), spec
        assert torch.vmap(q)(torch.stack([x, bad]))[1, 1, 2].isnan(), spec


@pytest.mark.parametrize("how", RANGES)
@pytest.mark.parametrize("name", ["uniform", "fixed_point"])
def test_a_nan_never_sets_a_stored_range_to_a_number(name, how, generator):
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    spec = component("quantizer/activation", name, range=how, train="fixed", eval="fixed")
    q = of_a_layer(spec, "activation", x)
    q.observing = True
    bad = x.clone()
    bad[1, 2] = math.nan
    before = q.limits.clone()
    q(bad)
    ends = q.limits if how != "quantile" else q.limits[..., -1:, :]
    assert ends.isnan().any() or torch.equal(q.limits, before)


STEPS = [Step((0.0,), (-1.0, 1.0)), Step((0.5,), (0.0, 1.0)), Step((-0.5, 0.5), (-1.0, 0.0, 1.0))]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_function_returns_nan_for_nan_and_levels_for_infinities(step, dtype):
    z = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5, -0.5, 1e-40], dtype=dtype)
    plain = torch.full_like(z, step.levels[0])
    for t, low, high in zip(step.thresholds, step.levels[:-1], step.levels[1:], strict=True):
        plain += (z >= t) * (high - low)
    plain[0] = math.nan
    for got in (stepped(z, step), step_(z.clone(), step)):
        assert torch.equal(got.nan_to_num(7), plain.nan_to_num(7)) and got[0].isnan()


def test_sign_ternary_and_rounding_return_nan_for_nan():
    z = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0, -2.0], dtype=torch.float64)
    wanted = [7.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0]
    assert surrogate.sign(z).nan_to_num(7).tolist() == wanted
    with torch.no_grad():
        ternary = surrogate.ternary(z, torch.tensor(1.0, dtype=torch.float64))
    assert ternary.nan_to_num(7).tolist() == [7.0, 1.0, -1.0, 0.0, 0.0, 1.0, -1.0]
    assert surrogate.rounded(z)[0].isnan()


@pytest.mark.parametrize("moving", ["all", (1,)])
@pytest.mark.parametrize(
    ("slot", "name"), [(s, n) for s in ("weight", "activation") for n in options(f"quantizer/{s}")]
)
def test_the_loss_of_a_network_with_a_nan_weight_is_nan(slot, name, moving):
    mine = component(f"quantizer/{slot}", name)
    slots = Slots(mine, Sign()) if slot == "weight" else Slots(Identity(), mine)
    model, data = ToyMLP(quantizer=slots, dim=4, hidden=2), Gaussian(dim=4, n=20)
    p = prepare(Task(model=model, dataset=data, moving=moving), 0)
    f = p.objective(p.batch(0))
    assert f.value(p.params).isfinite()
    for key in p.params:
        bad = p.params | {key: p.params[key].clone()}
        bad[key].view(-1)[0] = math.nan
        stack = {k: torch.stack([v, p.params[k]]) for k, v in bad.items()}
        assert f.value(bad).isnan(), key
        assert f.values(stack).isnan().tolist() == [True, False], key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_power_of_two_rounds_up_to_the_next_power_of_2_to_the_last_bit(dtype):
    info = torch.finfo(dtype)
    least = round(math.log2(info.tiny))
    exact = torch.tensor([2.0**k for k in range(least, -least)], dtype=torch.float64).to(dtype)
    above = torch.nextafter(exact, torch.full_like(exact, math.inf))
    below = torch.nextafter(exact, torch.zeros_like(exact))
    assert torch.equal(power_of_two(exact), exact)
    assert torch.equal(power_of_two(above), 2 * exact)
    assert torch.equal(power_of_two(below), exact)
    zero = torch.tensor([0.0, math.nan, math.inf], dtype=dtype)
    assert power_of_two(zero).nan_to_num(7, posinf=8).tolist() == [0.0, 7.0, 8.0]


def test_fixed_point_with_range_max_does_not_clip_the_largest_number():
    x = torch.tensor([-1 - 2.0**-52, 0.5], dtype=torch.float64)
    assert float(FixedPoint(bits=8, range="max").limits(x)) == 2.0


def test_the_rank_of_a_quantile_is_the_smallest_rank_with_that_share():
    for n in (1, 7, 10, 30, 100, 1000):
        for k in range(1, n + 1):
            assert rank(k / n, n) == k
            assert rank(k / n * (1 + 1e-6), n) == min(k + 1, n + 1)
    assert rank(0.07, 100) == 7 and rank(0.1 * 3, 10) == 3
