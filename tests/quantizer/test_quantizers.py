"""Tests of the levels, the forward pass and the published gradients of every quantizer."""

import copy

import pytest
import torch
from conftest import component, options

from sa import surrogate
from sa.dataset.gaussian import Gaussian
from sa.estimator import _slopes
from sa.estimator.cdg import CDG
from sa.flips.chain import stepped
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Step
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.quantizer.levels import Levels
from sa.quantizer.none import Identity
from sa.types import Slots

MEMBERS = [
    (slot, n) for slot in ("weight", "activation", "gradient") for n in options(f"quantizer/{slot}")
]


def test_levels_too_many_to_list_clip_and_have_no_step():
    fine, x = Levels(2**32), torch.linspace(-1, 2, 301, dtype=torch.float64)
    torch.testing.assert_close(fine(x), x.clamp(0, 1), rtol=0, atol=2**-32)
    assert fine.step is None and Levels(2**16).step


def make(slot, name, **settings):
    return component(f"quantizer/{slot}", name, **settings)


def built(slot, name, x, **settings):
    """Return the quantizer as a layer holds it, with parameters and ranges that start from x."""
    q = make(slot, name, **settings)
    if slot == "gradient" or not hasattr(q, "build"):
        return q
    q = q.build(x if slot == "weight" else None)
    if isinstance(q, torch.nn.Module):
        q.observing = True
        with torch.no_grad():
            q(x)
        q.observing = False
    return q


@pytest.fixture
def x(generator):
    x = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    x[0, 0] = 0.0
    return x


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_the_forward_pass_is_the_same_under_every_slope_and_changes_no_state(slot, name, x):
    q, before = built(slot, name, x), x.clone()
    kept = copy.deepcopy(q.state_dict()) if isinstance(q, torch.nn.Module) else {}
    with torch.no_grad():
        plain = q(x)
    for rule in _slopes.SURROGATES:
        with surrogate.backward(_slopes.rule(rule)):
            leaf = x.clone().requires_grad_()
            out = q(leaf)
            out.sum().backward()
        assert torch.equal(out, plain) and leaf.grad.isfinite().all()
    assert all(torch.equal(v, q.state_dict()[k]) for k, v in kept.items())
    assert torch.equal(x, before) and plain.shape == x.shape and plain.dtype == x.dtype


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_quantizers_under_vmap_equal_a_loop(slot, name, x):
    q = built(slot, name, x)
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(q)(many), torch.stack([q(x), q(2 * x)]))


def fixed(q, x):
    """Return the quantizer with its scale fixed at the one it reads from x."""
    read = getattr(q, "limits" if hasattr(q, "limits") else "scale", None)
    if isinstance(q, torch.nn.Module) or not callable(read):
        return q
    at = read(x)
    return lambda v: q(v, at)


@pytest.mark.parametrize(("slot", "name"), [m for m in MEMBERS if m != ("weight", "dorefa")])
def test_quantizing_twice_at_a_fixed_scale_equals_quantizing_once(slot, name, x):
    """DoReFa-Net's weights are left out: their tanh moves every level."""
    q = fixed(built(slot, name, x), x)
    torch.testing.assert_close(q(q(x)), q(x))


def test_sign_has_levels_minus_1_and_1_and_sign_of_0_is_1(x):
    out = make("activation", "sign")(x)
    assert set(out.unique().tolist()) == {-1.0, 1.0} and out[0, 0] == 1.0


def test_sign_equals_the_step_it_declares(x):
    q = make("activation", "sign")
    assert torch.equal(stepped(x, q.step), q(x))


def test_the_identity_returns_its_input(x):
    assert make("weight", "none")(x) is x


@pytest.mark.parametrize("shape", [(4, 9), (3, 2, 3, 3)])
def test_xnor_is_the_sign_times_the_mean_magnitude_of_each_channel(shape, generator):
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    out = make("weight", "xnor")(w)
    alpha = w.abs().flatten(1).mean(1)
    for o in range(len(w)):
        torch.testing.assert_close(out[o].abs(), alpha[o].expand(w[o].shape))
        assert ((out[o] > 0) == (w[o] >= 0)).all()


def test_the_scale_of_xnor_has_the_least_squared_error(x):
    q = make("weight", "xnor")
    best = ((q(x) - x) ** 2).sum(1)
    for factor in (0.95, 1.05):
        assert (((factor * q(x) - x) ** 2).sum(1) > best).all()


@pytest.mark.parametrize("mode", ["full", "detach", "bireal"])
def test_xnor_has_its_published_gradients(mode, x, generator):
    q = make("weight", "xnor", scale_grad=mode)
    g = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    rule = _slopes.rule("clipped")
    w = x[1:].clone().requires_grad_()
    with surrogate.backward(rule):
        (q(w) * g[1:]).sum().backward()
    v, g = x[1:], g[1:]
    s, m, alpha, n = torch.sign(v), rule(v), v.abs().mean(1, keepdim=True), v.shape[1]
    law = {
        "full": s / n * (g * s).sum(1, keepdim=True) + alpha * g * m,
        "detach": alpha * g * m,
        "bireal": g * m,
    }[mode]
    torch.testing.assert_close(w.grad, law)


@pytest.mark.parametrize("scale", ["none", "tensor", "channel"])
@pytest.mark.parametrize("centre", [False, True])
def test_xnor_scale_and_centre_do_what_they_state(scale, centre, x):
    out = make("weight", "xnor", scale=scale, centre=centre)(x)
    dims = (1,) if scale == "channel" else (0, 1)
    v = x - x.mean(dims, keepdim=True) if centre else x
    alpha = torch.ones(1, 1).double() if scale == "none" else v.abs().mean(dims, keepdim=True)
    torch.testing.assert_close(out, alpha * torch.where(v >= 0, 1.0, -1.0).double())


def test_xnor_of_zeros_is_0_with_finite_gradients():
    w = torch.zeros(2, 3, requires_grad=True)
    out = make("weight", "xnor")(w)
    out.sum().backward()
    assert not out.any() and w.grad.isfinite().all()


def test_uniform_has_equal_steps_and_keeps_the_largest_magnitude(x):
    q = make("gradient", "uniform", bits=3)
    scale = float(x.abs().max()) / 3
    steps = q(x) / scale
    torch.testing.assert_close(steps, steps.round())
    assert (q(x) - x).abs().max() <= scale / 2 * (1 + 1e-12)
    assert float(q(x).abs().max()) == pytest.approx(float(x.abs().max()))
    assert not q(torch.zeros(3)).any()


def test_a_gradient_quantizer_acts_on_what_reaches_the_activation():
    from sa.network.layers import Activation
    from sa.quantizer.none import Identity

    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    layer = Activation(Identity(), make("gradient", "uniform", bits=2))
    (layer(x * 2) * torch.tensor([1.0, 0.4, -0.9])).sum().backward()
    assert x.grad.tolist() == [2.0, 0.0, -2.0]  # 2 times the gradient rounded to -1, 0, 1


def test_presets_ternary_and_bits2_have_the_stated_levels_and_thresholds():
    assert make("activation", "ternary").step == Step((0.25, 0.75), (0.0, 0.5, 1.0))
    bits2 = make("activation", "bits2").step
    assert bits2.levels == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert bits2.thresholds == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Levels(1)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 16, 256])
def test_levels_equal_the_step_they_declare_and_keep_their_own_outputs(levels, generator):
    q = Levels(levels)
    x = 2 * torch.rand(20_000, generator=generator, dtype=torch.float64) - 0.5
    out = q(x)
    # exact equality matters: fast differences compare outputs with these levels
    assert out.unique().tolist() == list(q.step.levels)
    assert torch.equal(q(out), out)
    law = torch.floor((levels - 1) * x.clamp(0, 1) + 0.5) / (levels - 1)
    assert torch.equal(out, law) and torch.equal(stepped(x, q.step), out)


def test_levels_pass_gradients_on_the_closed_interval_0_to_1():
    x = torch.tensor([-1e-12, 0.0, 0.3, 1.0, 1 + 1e-12], dtype=torch.float64, requires_grad=True)
    with surrogate.backward(_slopes.rule("identity")):
        Levels(3)(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("name", ["poly", "tanh", "relu"])
def test_the_slope_of_levels_repeats_around_each_threshold(name):
    x = torch.tensor([0.1, 0.25, 0.4, 0.6, 0.75, 0.9], dtype=torch.float64, requires_grad=True)
    rule = _slopes.rule(name)
    with surrogate.backward(rule):
        Levels(3)(x).sum().backward()
    halves = torch.tensor([-0.6, 0, 0.6, -0.6, 0, 0.6], dtype=torch.float64)  # (x - t) / (1/4)
    torch.testing.assert_close(x.grad, rule(halves))


def test_t10_a_ternary_unit_is_the_mean_of_two_binary_units():
    # round(2 clip(x, 0, 1))/2 = [b(x + 1/4) + b(x - 1/4)]/2 with b = 1[x > 1/2], off the thresholds
    x = torch.linspace(-1, 2, 30_000, dtype=torch.float64)
    assert not ((x == 0.25) | (x == 0.75)).any()
    pair = ((x + 0.25 > 0.5).double() + (x - 0.25 > 0.5).double()) / 2
    assert torch.equal(Levels(3)(x), pair)
    b = Levels(2)  # a binary unit has two levels
    assert torch.equal(pair, (b(x + 0.25) + b(x - 0.25)) / 2)
    assert not torch.equal(pair, (b(x + 0.3) + b(x - 0.3)) / 2)  # another shift is wrong


@pytest.mark.parametrize("name", ["ternary", "bits2"])
@pytest.mark.parametrize("out", [1, 3])
def test_t8_fast_cdg_of_levels_equals_brute_force(name, out):
    slots = Slots(Identity(), make("activation", name))
    p = prepare(
        Task(model=ToyMLP(quantizer=slots, dim=5, out=out), dataset=Gaussian(dim=5, n=200)), 0
    )
    f = p.objective(p.batch(0))
    point = {k: 2 * v for k, v in p.params.items()}  # larger weights make the third layer active
    for epsilon in (0.01, 0.1, 1.0):
        fast, brute = (
            CDG(epsilon, path)(f, point, {}, torch.Generator()) for path in ("fast", "brute")
        )
        assert fast.info["path"] == "fast"
        assert epsilon < 0.1 or all(g.any() for g in brute.grad.values())
        for k in point:
            atol = 1e-12 * max(1e-3 / epsilon, float(brute.grad[k].abs().max()))
            torch.testing.assert_close(fast.grad[k], brute.grad[k], rtol=0, atol=atol)


def logits(q, x):
    """Return the logits with which the quantizer calls a random unit."""
    seen = []
    with surrogate.sampling(lambda k, phi: seen.append(phi) or surrogate.hard_sign(phi)):
        q(x)
    return seen[0]


def smallest(x, share, dims):
    """Return the smallest entry that at least this share of all entries do not exceed."""
    rows = x.reshape(1, -1) if len(dims) == 2 else x.movedim(1 - dims[0], 0)
    found = [min(v for v in row if (row <= v).double().mean() >= share) for row in rows]
    return torch.stack(found).view([1 if d in dims else -1 for d in (0, 1)])


SCALES = {  # the scale that divides x (rows, channels), taken over the dimensions dims
    "max": lambda x, dims: torch.where(x > 0, x.amax(dims, True), -x.amin(dims, True)),
    "quantile": lambda x, dims: smallest(x.abs(), 0.75, dims),
    "k_sigma": lambda x, dims: 0.75 * x.square().mean(dims, True).sqrt(),
    "fixed": lambda x, dims: torch.tensor(0.75),
}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "sample"])
@pytest.mark.parametrize("normaliser", list(SCALES))
def test_the_mean_of_relaxed_bernoulli_is_the_normalised_activation(normaliser, granularity, x):
    x = x[:, :5]
    scale = None if normaliser == "max" else 0.75
    q = make("activation", "relaxed_bernoulli", normaliser=normaliser, scale=scale,
             granularity=granularity)  # fmt: skip
    dims = {"tensor": (0, 1), "channel": (0,), "sample": (1,)}[granularity]
    t = (x / SCALES[normaliser](x, dims)).clamp(-1, 1)
    torch.testing.assert_close(torch.tanh(logits(q, x) / 2), t, atol=3e-6, rtol=0)  # 2 p - 1
    assert torch.equal(q(x), surrogate.hard_sign(x))  # outside sampling: the most probable state
    assert q.coupled == (normaliser != "fixed" and granularity != "sample")
    alone = torch.cat([logits(q, row) for row in x.split(1)])
    assert torch.allclose(alone, logits(q, x)) != q.coupled


def test_relaxed_bernoulli_is_finite_at_0_and_at_the_maximum():
    q = make("activation", "relaxed_bernoulli")
    for x in (torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([[1e-30, -1e30]])):
        leaf = x.clone().requires_grad_()
        phi = logits(q, leaf)
        phi.sum().backward()
        assert phi.isfinite().all() and leaf.grad.isfinite().all()


def test_the_scale_of_relaxed_bernoulli_has_no_gradient(x):
    leaf = x.clone().requires_grad_()
    q = make("activation", "relaxed_bernoulli")
    (got,) = torch.autograd.grad(logits(q, leaf)[1, 1], leaf)
    t = x[1, 1] / (x.max() if x[1, 1] > 0 else -x.min())
    law = torch.zeros_like(x)
    law[1, 1] = 2 / (1 - t * t) * t / x[1, 1]
    torch.testing.assert_close(got, law)


def test_relaxed_bernoulli_flips_more_signs_in_a_larger_batch(generator):
    """The maximum grows with the batch: 39 % of the signs flip at 256 rows, 43 % at 640,000."""
    q = make("activation", "relaxed_bernoulli")
    few, many = (torch.randn(n, 8, generator=generator) for n in (256, 640_000))
    rates = [float(torch.sigmoid(-logits(q, a).abs()).mean()) for a in (few, many)]
    assert rates[0] == pytest.approx(0.39, abs=0.01) and rates[1] == pytest.approx(0.43, abs=0.01)


def test_relaxed_bernoulli_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(Exception, match="normaliser=max takes no scale"):
        make("activation", "relaxed_bernoulli", scale=2.0)
    with pytest.raises(Exception, match="at most 1"):
        make("activation", "relaxed_bernoulli", normaliser="quantile", scale=2.0)
