"""Tests of levels, published gradients, random rounding and stated errors of the quantizers."""

import math

import pytest
import torch
from pydantic import ValidationError
from test_quantizers import MEMBERS, built, fixed, make
from torch import nn

from sa import surrogate
from sa.estimator import _slopes
from sa.network.traits import traits
from sa.quantizer.dorefa import Dorefa
from sa.quantizer.dorefa_gradient import DorefaGradient
from sa.quantizer.fixed_point import FixedPoint
from sa.quantizer.levels import Levels
from sa.quantizer.lsq import LSQ
from sa.quantizer.pact import Pact
from sa.quantizer.sawb import COEFFICIENTS, Sawb
from sa.quantizer.terngrad import TernGrad
from sa.quantizer.ttq import TTQ
from sa.quantizer.twn import TWN
from sa.quantizer.uniform import Uniform

F64 = torch.float64
IDENTITY = _slopes.rule("identity")


@pytest.fixture
def w(generator):
    return torch.randn(4, 9, generator=generator, dtype=F64)


@pytest.fixture
def g(generator):
    generator.manual_seed(1)
    return torch.randn(4, 9, generator=generator, dtype=F64)


def drawn(seed):
    """Return a context in which random units of every kind are drawn from one seed."""
    generator = torch.Generator().manual_seed(seed)

    def unit(k, phi):
        u = torch.rand(phi.shape, generator=generator, dtype=phi.dtype)
        return surrogate.hard_sign(torch.sigmoid(phi) - u)

    return surrogate.sampling(unit)


# Levels of 20,001 evenly spaced numbers

STATES = {  # the number of levels that the settings in YAML declare
    ("weight", "sign"): 2, ("weight", "xnor"): 2, ("weight", "twn"): 3, ("weight", "ttq"): 3,
    ("weight", "dorefa"): 4, ("weight", "sawb"): 4, ("weight", "lsq"): 16,
    ("weight", "binaryconnect_sto"): 2, ("weight", "uniform"): 255, ("weight", "fixed_point"): 256,
    ("activation", "sign"): 2, ("activation", "bernoulli"): 2, ("activation", "bits2"): 4,
    ("activation", "ternary"): 3, ("activation", "dorefa"): 16, ("activation", "pact"): 16,
    ("activation", "lsq"): 16, ("activation", "binaryconnect_sto"): 2,
    ("activation", "relaxed_bernoulli"): 2,
    ("activation", "uniform"): 256, ("activation", "fixed_point"): 256,
    ("gradient", "uniform"): 255, ("gradient", "fixed_point"): 256, ("gradient", "dorefa"): 64,
    ("gradient", "terngrad"): 3,
}  # fmt: skip


@pytest.mark.parametrize(("slot", "name"), [m for m in MEMBERS if m[1] not in ("none", "gate")])
def test_outputs_take_each_of_the_declared_levels(slot, name):
    # the range of two's complement ends one step earlier above than below
    x = torch.linspace(-8, 8 - 8 / 300, 20_001, dtype=F64).view(1, -1)
    q = built(slot, name, x)
    if name == "lsq":
        q.s.data.fill_(0.5)
    out = q(x).unique()
    gaps = out.diff()
    distinct = 1 + int((gaps > 1e-9).sum())  # rounding may split a level into two close numbers
    assert distinct == STATES[slot, name]
    bits = traits(q).bits  # the fewest bits for this number of levels
    assert 2 ** (bits - 1) < distinct <= 2**bits
    even = gaps[gaps > 1e-9][: 1 if name == "ttq" else None]  # ttq learns its levels
    torch.testing.assert_close(even, even[:1].expand(len(even)))


# If every step function is replaced by the identity, the rest of each formula is smooth.

CHECKED = [
    ("weight", "sign"), ("weight", "xnor"), ("weight", "dorefa"), ("weight", "sawb"),
    ("weight", "uniform"), ("weight", "fixed_point"), ("weight", "lsq"),
    ("activation", "sign"), ("activation", "bits2"), ("activation", "ternary"),
    ("activation", "dorefa"), ("activation", "pact"), ("activation", "lsq"),
    ("activation", "uniform"), ("activation", "fixed_point"),
    ("activation", "bernoulli"), ("gradient", "uniform"), ("gradient", "fixed_point"),
    ("gradient", "dorefa"),
]  # fmt: skip


@pytest.mark.parametrize(("slot", "name"), CHECKED)
def test_the_formula_around_each_step_is_differentiated_correctly(slot, name, w, monkeypatch):
    q = fixed(built(slot, name, w), w)
    monkeypatch.setattr(surrogate, "sign", lambda x: x)
    monkeypatch.setattr(surrogate, "rounded", lambda x, stochastic=False: x)
    monkeypatch.setattr(surrogate, "bernoulli", lambda logits, x=None: logits if x is None else x)
    assert torch.autograd.gradcheck(q, 0.9 * w.requires_grad_())


# Published gradients


@pytest.mark.parametrize("rule", ["identity", "clipped"])
def test_twn_has_its_published_levels_and_gradient(rule, w, g):
    m = _slopes.rule(rule)
    delta = 0.7 * w.abs().mean()
    alpha = w.abs()[w.abs() > delta].mean()
    leaf = w.clone().requires_grad_()
    with surrogate.backward(m):
        out = TWN()(leaf)
        out.backward(g)
    t = torch.where(w.abs() > delta, w.sign(), 0.0)
    torch.testing.assert_close(out, alpha * t)
    torch.testing.assert_close(leaf.grad, alpha * g * m((w.abs() - delta) / delta))


def test_ttq_has_its_published_gradients(w, g):
    q = TTQ(threshold=0.3).build(w)
    delta = 0.3 * w.abs().max()
    up, down = w > delta, w < -delta
    torch.testing.assert_close(q.positive.data, w[up].mean().view(1))
    torch.testing.assert_close(q.negative.data, -w[down].mean().view(1))
    q.positive.data.fill_(2.0)
    q.negative.data.fill_(3.0)
    leaf = w.clone().requires_grad_()
    with surrogate.backward(IDENTITY):
        out = q(leaf)
        out.backward(g)
    assert torch.equal(out, 2.0 * up - 3.0 * down)
    torch.testing.assert_close(leaf.grad, g * (2.0 * up + 3.0 * down + 1.0 * ~(up | down)))
    torch.testing.assert_close(q.positive.grad, g[up].sum().view(1))
    torch.testing.assert_close(q.negative.grad, -g[down].sum().view(1))


@pytest.mark.parametrize("rule", ["identity", "poly"])
def test_pact_has_its_published_gradients(rule, w, g):
    x, m = 3 * w, _slopes.rule(rule)
    q = Pact(bits=3, start_at=2.5).build(None)
    leaf = x.clone().requires_grad_()
    with surrogate.backward(m):
        out = q(leaf)
        out.backward(g)
    u = x.clamp(0, 2.5) * 7 / 2.5
    torch.testing.assert_close(out, torch.floor(u + 0.5) * 2.5 / 7)
    local = m(2 * (u - u.floor()) - 1)
    torch.testing.assert_close(leaf.grad, g * local * ((x > 0) & (x < 2.5)))
    torch.testing.assert_close(q.alpha.grad, g[x >= 2.5].sum().view(1))  # for every slope


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("slot", ["weight", "activation"])
def test_lsq_has_its_published_gradients(slot, signed, w, g):
    x = 3 * w
    q = built(slot, "lsq", x, bits=3, signed=signed)
    low, high = (4, 3) if signed else (0, 7)
    torch.testing.assert_close(q.s.data, (2 * x.abs().mean() / high**0.5).view(1))
    q.s.data.fill_(0.7)
    leaf = x.clone().requires_grad_()
    with surrogate.backward(IDENTITY):
        out = q(leaf)
        out.backward(g)
    v = x / 0.7
    torch.testing.assert_close(out, 0.7 * torch.floor(v.clamp(-low, high) + 0.5))
    torch.testing.assert_close(leaf.grad, g * ((v > -low) & (v < high)))
    each = torch.where(v <= -low, -low, torch.where(v >= high, high, torch.floor(v + 0.5) - v))
    count = x.numel() if slot == "weight" else x[0].numel()
    torch.testing.assert_close(q.s.grad, (g * each).sum().view(1) / math.sqrt(count * high))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_has_its_published_formula_and_gradient(bits, w, g):
    leaf = w.clone().requires_grad_()
    with surrogate.backward(IDENTITY):
        out = Dorefa(bits)(leaf)
        out.backward(g)
    n, t = 2**bits - 1, torch.tanh(w)
    if bits == 1:
        law, slope = w.abs().mean() * w.sign(), w.abs().mean()
    else:
        law = 2 * torch.floor(n * (t / (2 * t.abs().max()) + 0.5) + 0.5) / n - 1
        slope = (1 - t * t) / t.abs().max()
    torch.testing.assert_close(out, law)
    torch.testing.assert_close(leaf.grad, g * slope)


@pytest.mark.parametrize("bits", list(COEFFICIENTS))
def test_sawb_has_less_error_on_a_gaussian_than_narrower_or_wider_ranges(bits, generator):
    w = torch.randn(100_000, generator=generator, dtype=F64)
    q = Sawb(bits)
    error = lambda scale: float((q(w, scale) - w).square().mean())  # noqa: E731
    alpha = q.scale(w)
    assert error(alpha) < min(error(0.7 * alpha), error(1.4 * alpha))
    leaf = w.clone().requires_grad_()
    with surrogate.backward(IDENTITY):
        q(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, (w.abs() <= alpha).to(F64))


def test_sawb_keeps_weights_of_one_magnitude_unchanged():
    w = torch.tensor([-2.0, 2.0, 2.0], dtype=F64)  # c1 + c2 < 0 at 4 bits
    assert torch.equal(Sawb(4)(w), w)


# Uniform is compared with torch's fake quantization, which rounds halves to even and not up.


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_uniform_equals_torch_fake_quantization(granularity, scheme, bits, generator):
    x = torch.randn(6, 50, generator=generator) * torch.arange(1, 7).view(-1, 1) + 0.5
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    q = Uniform(bits, scheme, granularity, range="quantile", reach=0.9)
    low, high = (v.flatten() for v in q.limits(x))
    if scheme == "symmetric":
        least, most = -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
        scale = high / most
        zero = torch.zeros_like(scale)
    else:
        least, most = 0, 2**bits - 1
        scale = (high - low) / most
        zero = torch.floor(-low / scale + 0.5)
    with surrogate.backward(IDENTITY):
        out = q(leaf)
        out.sum().backward()
    if granularity == "tensor":
        law = torch.fake_quantize_per_tensor_affine(other, float(scale), int(zero), least, most)
    else:
        law = torch.fake_quantize_per_channel_affine(other, scale, zero.int(), 0, least, most)
    law.sum().backward()
    torch.testing.assert_close(out, law)
    # the two gradients differ between the last level and the end of the range
    apart = (leaf.grad != other.grad).float().mean()
    assert apart < 0.5 / 2**bits and 0.02 < (leaf.grad == 0).float().mean() < 0.25


def test_uniform_rounds_halves_up_and_torch_rounds_them_to_even():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 7.0])
    ours = Uniform(bits=4)(x)
    torchs = torch.fake_quantize_per_tensor_affine(x, 1.0, 0, -7, 7)
    assert ours.tolist() == [-1, 0, 1, 2, 3, 7] and torchs.tolist() == [-2, 0, 0, 2, 2, 7]


def test_each_group_is_quantized_on_its_own(w):
    w = w[:, :8]
    out = Uniform(4, granularity="group:4")(w)
    for at in (slice(0, 4), slice(4, 8)):
        for row in range(4):
            torch.testing.assert_close(out[row, at], Uniform(4)(w[row, at]))
    x = w.reshape(2, 4, 4)  # dimension 1 has the channels of activations
    out = Uniform(4, granularity="channel", axis=1)(x)
    for c in range(4):
        torch.testing.assert_close(out[:, c], Uniform(4)(x[:, c]))
    with pytest.raises(ValueError, match="8 elements, which 3 does not divide"):
        Uniform(4, granularity="group:3")(w)


@pytest.mark.parametrize("cls", [Uniform, FixedPoint])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_range_mse_has_the_least_error_of_all_ranges(cls, granularity, w):
    best = cls(3, granularity=granularity, range="mse")
    errors = []
    for q in (best, *(cls(3, granularity=granularity, range=r) for r in ("max", "k_sigma"))):
        errors.append((q(w) - w).square().sum(1 if granularity == "channel" else (0, 1)))
    assert (errors[0] <= errors[1]).all() and (errors[0] < errors[1]).any()
    if cls is Uniform:  # no range between 0 and the maximum has less error
        factor = torch.linspace(0.02, 1, 300, dtype=F64)
        full = cls(3, granularity=granularity).limits(w)
        dims = 1 if granularity == "channel" else (0, 1)
        tries = torch.stack([(best(w, f * full) - w).square().sum(dims) for f in factor])
        assert (errors[0] <= 1.01 * tries.amin(0)).all()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("how", ["max", "mse"])
def test_fixed_point_numbers_are_those_of_twos_complement(bits, how, w, g):
    q = FixedPoint(bits, range=how)
    half = float(q.limits(w))
    assert math.log2(half) == round(math.log2(half))
    assert how == "mse" or half / 2 < float(w.abs().max()) <= half
    d, n = half / 2 ** (bits - 1), 2 ** (bits - 1)
    leaf = w.clone().requires_grad_()
    with surrogate.backward(IDENTITY):
        out = q(leaf)
        out.backward(g)
    assert torch.equal(out, d * torch.floor(w / d + 0.5).clamp(-n, n - 1))
    assert torch.equal(leaf.grad, g * ((w >= -half) & (w <= half - d)))


# Stored ranges


@pytest.mark.parametrize("name", ["uniform", "fixed_point"])
def test_a_stored_range_changes_only_while_it_observes(name, w):
    q = make("activation", name, ema=0.75, bits=4).build(None)
    spec = make("activation", name, ema=0.75, bits=4)
    q.observing = True
    q(w)
    torch.testing.assert_close(q.limits, spec.limits(w))  # the range of the first tensor
    q(8 * w)
    law = 0.75 * spec.limits(w) + 0.25 * spec.limits(8 * w)
    torch.testing.assert_close(q.limits, law)
    q.observing = False
    torch.testing.assert_close(q(100 * w), spec(100 * w, law))
    torch.testing.assert_close(q.limits, law)


def test_training_and_evaluation_have_settings_of_their_own(w):
    q = make("weight", "uniform", bits=3, train="auto", eval="none").build(w)
    assert torch.equal(q.eval()(w), w)
    assert torch.equal(q.train()(w), Uniform(3)(w)) and not torch.equal(q(w), w)
    frozen = make("weight", "uniform", bits=3, train="fixed", eval="auto", ema=1.0).build(w)
    assert not torch.equal(frozen.train()(2 * w), 2 * frozen(w))
    assert torch.equal(frozen.eval()(2 * w), 2 * frozen(w))
    assert frozen.observes
    frozen.observing = True
    frozen(w)
    assert not frozen.observes


# Random rounding

RANDOM = {
    "weight/uniform": lambda: Uniform(3, rounding="stochastic"),
    "weight/affine": lambda: Uniform(3, "affine", rounding="stochastic"),
    "weight/fixed_point": lambda: FixedPoint(4, range="max", rounding="stochastic"),
    "activation/levels": lambda: Levels(4, "stochastic"),
    "weight/sawb": lambda: Sawb(4, "stochastic"),
    "weight/dorefa": lambda: Dorefa(3, "stochastic"),
    "activation/pact": lambda: Pact(3, 2.0, "stochastic").build(None),
    "weight/lsq": lambda: LSQ(3, rounding="stochastic").build(torch.ones(9, dtype=F64)),
    "weight/binaryconnect_sto": lambda: make("weight", "binaryconnect_sto"),
    "gradient/dorefa": lambda: DorefaGradient(3),
    "gradient/terngrad": lambda: TernGrad(1.5),
}


def mean(name, x):
    """Return the mean E q(x) by the formula of the quantizer."""
    match name:
        case "activation/levels":
            return x.clamp(0, 1)
        case "activation/pact":
            return x.clamp(0, 2)
        case "weight/binaryconnect_sto":
            return x.clamp(-1, 1)
        case "weight/sawb":
            a = Sawb(4).scale(x)
            return x.clamp(-a, a)
        case "weight/dorefa":
            return torch.tanh(x) / torch.tanh(x).abs().max()
        case "weight/lsq":
            s = 2 / math.sqrt(3)
            return x.clamp(-4 * s, 3 * s)
        case "weight/affine":
            n, (low, high) = 7, (float(x.min()), float(x.max()))
            s = (high - low) / n
            z = math.floor(-low / s + 0.5)
            return x.clamp(-z * s, (n - z) * s)
        case "weight/fixed_point":
            half = 2.0 ** math.ceil(math.log2(float(x.abs().max())))
            return x.clamp(-half, half * 7 / 8)
        case "gradient/terngrad":
            m = min(1.5 * float(x.std(correction=0)), float(x.abs().max()))
            return x.clamp(-m, m)
    return x


@pytest.mark.parametrize("name", list(RANDOM))
def test_random_quantizers_are_unbiased_and_repeatable_and_round_to_nearest_outside_sampling(
    name, w
):
    q, x, n = RANDOM[name](), w[1:2] / 2, 2000
    with drawn(0):
        draws = torch.stack([q(x) for _ in range(n)])
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - mean(name, x)).abs() <= 5 * error + 1e-9).all()
    assert draws.std(0).amax() > 0.05  # the draws do differ
    with drawn(0):
        assert torch.equal(q(x), draws[0])
    with drawn(1):
        assert any(not torch.equal(q(x), draws[i]) for i in range(3))
    nearest = q(x)
    if "terngrad" not in name:
        assert ((nearest - x).abs() <= (draws - x).abs().amin(0) + 1e-9).all() or "dorefa" in name
    assert torch.equal(nearest, q(x))


def test_stochastic_rounding_has_its_stated_variance_and_the_slope_of_rounding():
    x = torch.tensor([0.2, 1.5, -0.75, 3.0], dtype=F64, requires_grad=True)
    f = (x - x.floor()).detach()
    with drawn(0):
        draws = torch.stack([surrogate.rounded(x.detach(), True) for _ in range(8_000)])
    torch.testing.assert_close(draws.var(0), f * (1 - f), atol=0.02, rtol=0)
    assert torch.equal(draws[:, 3], torch.full_like(draws[:, 3], 3.0))  # a level is kept
    rule = _slopes.rule("poly")
    with surrogate.backward(rule), drawn(0):
        surrogate.rounded(x, True).sum().backward()
    torch.testing.assert_close(x.grad, rule(2 * f - 1))


# Stated errors


def test_4_bit_fixed_point_of_a_gaussian_has_the_stated_errors(generator):
    """The mean squared error is 0.021 with range=mse and 0.083 with range=max."""
    x = torch.randn(100_000, generator=generator, dtype=F64)
    found = [float((FixedPoint(4, range=r)(x) - x).square().mean()) for r in ("mse", "max")]
    assert found == pytest.approx([0.021, 0.083], rel=0.03)


@pytest.mark.parametrize(
    ("density", "best"), [("gaussian", 0.767), ("uniform", 2 / 3), ("laplace", 0.999)]
)
def test_the_threshold_of_twn_with_least_error_is_the_stated_factor_of_the_mean(density, best):
    u = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000  # quantiles have no sampling error
    w = {
        "gaussian": math.sqrt(2) * torch.erfinv(2 * u - 1),
        "uniform": 2 * u - 1,
        "laplace": -torch.sign(u - 0.5) * torch.log1p(-2 * (u - 0.5).abs()),
    }[density]
    factors = torch.arange(best - 0.1, best + 0.1, 0.005)
    errors = [float((TWN(float(f))(w) - w).square().sum()) for f in factors]
    assert float(factors[errors.index(min(errors))]) == pytest.approx(best, abs=0.01)


def test_a_range_for_each_channel_has_a_fortieth_of_the_error_of_one_range(generator):
    """With 4 bits and channel scales spread over a factor of 30 the errors are 0.7 and 0.018."""
    spread = torch.logspace(0, math.log10(30), 256, dtype=F64).view(-1, 1)
    w = spread * torch.randn(256, 576, generator=generator, dtype=F64)
    found = {}
    for granularity in ("tensor", "channel"):
        error = (Uniform(4, granularity=granularity)(w) - w).square().sum(1) / w.square().sum(1)
        found[granularity] = float(error.median())
    assert found["channel"] == pytest.approx(0.018, rel=0.1)
    assert 0.5 < found["tensor"] < 0.85  # it depends on a single maximum, so it varies more


# Zeros, and settings that are refused


@pytest.mark.parametrize(("slot", "name"), MEMBERS)
def test_zeros_have_finite_outputs_and_gradients(slot, name):
    x = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    q = built(slot, name, x.detach())
    for context in (drawn(0), surrogate.backward(IDENTITY)):
        with context, surrogate.backward(IDENTITY):
            out = q(x)
            out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("bits", [0, 33])
@pytest.mark.parametrize("cls", [Uniform, FixedPoint, Dorefa, DorefaGradient, Pact, LSQ, Sawb])
def test_impossible_bits_are_refused(cls, bits):
    with pytest.raises(
        ValidationError, match=rf"bits(.|\n)*{'32|1|2, 3'}(.|\n)*input_value={bits}"
    ):
        cls(bits=bits)


@pytest.mark.parametrize(
    ("cls", "wrong", "told"),
    [
        (Uniform, {"bits": 1}, "symmetric levels need 2"), (LSQ, {"bits": 1}, "need 2 or more"),
        (Uniform, {"reach": 2.0}, "range=max takes no reach"),
        (FixedPoint, {"range": "quantile", "reach": 2.0}, r"a quantile is at most 1"),
        (Uniform, {"granularity": "group:0"}, "granularity"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_refused(cls, wrong, told):
    with pytest.raises(ValidationError, match=told):
        cls(**wrong)


def test_stored_ranges_for_channels_of_activations_are_refused():
    with pytest.raises(ValueError, match="one a tensor; set granularity=tensor"):
        make("activation", "uniform", granularity="channel").build(None)
    assert not isinstance(
        make("activation", "uniform", granularity="channel", train="auto", eval="auto").build(None),
        nn.Module,
    )
