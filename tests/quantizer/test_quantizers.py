"""Every quantizer in the folder: its levels, its purity, and the published gradients."""

import pytest
import torch
from conftest import component, options

from sa import surrogate
from sa.estimator import _slopes

MEMBERS = [(slot, n) for slot in ("weight", "activation") for n in options(f"quantizer/{slot}")]


def make(slot, name, **settings):
    return component(f"quantizer/{slot}", name, **settings)


@pytest.fixture
def x(generator):
    x = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    x[0, 0] = 0.0
    return x


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_pure_and_the_same_forward_under_every_rule(slot, name, x):
    q, before = make(slot, name), x.clone()
    with torch.no_grad():
        plain = q(x)
    for rule in _slopes.SURROGATES:
        with surrogate.backward(_slopes.rule(rule)):
            leaf = x.clone().requires_grad_()
            out = q(leaf)
            out.sum().backward()
        assert torch.equal(out, plain) and leaf.grad.isfinite().all()
    assert torch.equal(x, before) and plain.shape == x.shape and plain.dtype == x.dtype


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_works_under_vmap(slot, name, x):
    q = make(slot, name)
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(q)(many), torch.stack([q(x), q(2 * x)]))


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_idempotent_up_to_its_scale(slot, name, x):
    q = make(slot, name)
    torch.testing.assert_close(q(q(x)), q(x))


def test_sign_levels_and_zero(x):
    out = make("activation", "sign")(x)
    assert set(out.unique().tolist()) == {-1.0, 1.0} and out[0, 0] == 1.0


def test_sign_is_its_own_step(x):
    from sa.flips.chain import stepped

    q = make("activation", "sign")
    assert torch.equal(stepped(x, q.step), q(x))


def test_identity(x):
    assert make("weight", "none")(x) is x


@pytest.mark.parametrize("shape", [(4, 9), (3, 2, 3, 3)])
def test_xnor_levels_per_channel(shape, generator):
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    out = make("weight", "xnor")(w)
    alpha = w.abs().flatten(1).mean(1)
    for o in range(len(w)):
        torch.testing.assert_close(out[o].abs(), alpha[o].expand(w[o].shape))
        assert ((out[o] > 0) == (w[o] >= 0)).all()


def test_xnor_scale_is_the_best_one(x):
    q = make("weight", "xnor")
    best = ((q(x) - x) ** 2).sum(1)
    for factor in (0.95, 1.05):
        assert (((factor * q(x) - x) ** 2).sum(1) > best).all()


@pytest.mark.parametrize("mode", ["full", "detach", "bireal"])
def test_xnor_published_gradients(mode, x, generator):
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
def test_xnor_settings(scale, centre, x):
    out = make("weight", "xnor", scale=scale, centre=centre)(x)
    dims = (1,) if scale == "channel" else (0, 1)
    v = x - x.mean(dims, keepdim=True) if centre else x
    alpha = torch.ones(1, 1).double() if scale == "none" else v.abs().mean(dims, keepdim=True)
    torch.testing.assert_close(out, alpha * torch.where(v >= 0, 1.0, -1.0).double())


def test_xnor_of_zeros_is_finite():
    w = torch.zeros(2, 3, requires_grad=True)
    out = make("weight", "xnor")(w)
    out.sum().backward()
    assert not out.any() and w.grad.isfinite().all()


def logits(q, x):
    """What a random unit is asked with."""
    seen = []
    with surrogate.sampling(lambda k, phi: seen.append(phi) or surrogate.hard_sign(phi)):
        q(x)
    return seen[0]


def smallest(x, share, dims):
    """The smallest entry that at least this share of all do not exceed, by counting."""
    rows = x.reshape(1, -1) if len(dims) == 2 else x.movedim(1 - dims[0], 0)
    found = [min(v for v in row if (row <= v).double().mean() >= share) for row in rows]
    return torch.stack(found).view([1 if d in dims else -1 for d in (0, 1)])


SCALES = {  # |t| = |x| / scale of a (rows, channels) x along the dimensions dims
    "max": lambda x, dims: torch.where(x > 0, x.amax(dims, True), -x.amin(dims, True)),
    "quantile": lambda x, dims: smallest(x.abs(), 0.75, dims),
    "k_sigma": lambda x, dims: 0.75 * x.square().mean(dims, True).sqrt(),
    "fixed": lambda x, dims: torch.tensor(0.75),
}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "sample"])
@pytest.mark.parametrize("normaliser", list(SCALES))
def test_relaxed_bernoulli_is_the_normalised_activation_on_average(normaliser, granularity, x):
    x = x[:, :5]
    scale = None if normaliser == "max" else 0.75
    q = make("activation", "relaxed_bernoulli", normaliser=normaliser, scale=scale,
             granularity=granularity)  # fmt: skip
    dims = {"tensor": (0, 1), "channel": (0,), "sample": (1,)}[granularity]
    t = (x / SCALES[normaliser](x, dims)).clamp(-1, 1)
    torch.testing.assert_close(torch.tanh(logits(q, x) / 2), t, atol=3e-6, rtol=0)  # 2 p - 1
    assert torch.equal(q(x), surrogate.hard_sign(x))  # its most probable state
    assert q.coupled == (normaliser != "fixed" and granularity != "sample")
    alone = torch.cat([logits(q, row) for row in x.split(1)])
    assert torch.allclose(alone, logits(q, x)) != q.coupled


def test_relaxed_bernoulli_of_zeros_and_of_the_maximum_is_finite():
    q = make("activation", "relaxed_bernoulli")
    for x in (torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([[1e-30, -1e30]])):
        leaf = x.clone().requires_grad_()
        phi = logits(q, leaf)
        phi.sum().backward()
        assert phi.isfinite().all() and leaf.grad.isfinite().all()


def test_relaxed_bernoulli_scales_carry_no_gradient(x):
    leaf = x.clone().requires_grad_()
    q = make("activation", "relaxed_bernoulli")
    (got,) = torch.autograd.grad(logits(q, leaf)[1, 1], leaf)
    t = x[1, 1] / (x.max() if x[1, 1] > 0 else -x.min())
    law = torch.zeros_like(x)
    law[1, 1] = 2 / (1 - t * t) * t / x[1, 1]
    torch.testing.assert_close(got, law)


def test_relaxed_bernoulli_flips_more_the_more_rows(generator):
    """The maximum grows with the sample: about 39 % of signs at 256 rows, 43 % at 640,000."""
    q = make("activation", "relaxed_bernoulli")
    few, many = (torch.randn(n, 8, generator=generator) for n in (256, 640_000))
    rates = [float(torch.sigmoid(-logits(q, a).abs()).mean()) for a in (few, many)]
    assert rates[0] == pytest.approx(0.39, abs=0.01) and rates[1] == pytest.approx(0.43, abs=0.01)


def test_relaxed_bernoulli_settings_that_mean_nothing_are_refused():
    with pytest.raises(Exception, match="normaliser=max takes no scale"):
        make("activation", "relaxed_bernoulli", scale=2.0)
    with pytest.raises(Exception, match="must be in"):
        make("activation", "relaxed_bernoulli", normaliser="quantile", scale=2.0)
