"""Tests of random gradient quantizers, which draw from the estimator's generator alone."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import CONF, component, options, studied

from sa import surrogate
from sa.analysis.bias_variance import BiasVariance
from sa.config.build import _backpropagates
from sa.dataset.gaussian import Gaussian
from sa.estimator.spectral import Spectral
from sa.estimator.ste import STE
from sa.model.toy_mlp import ToyMLP
from sa.objective.gradient_noise import GradientNoise
from sa.objective.prepare import prepare
from sa.params import flatten, stream
from sa.quantizer.bernoulli import Bernoulli
from sa.quantizer.dorefa_gradient import DorefaGradient
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.quantizer.terngrad import TernGrad
from sa.quantizer.uniform import Uniform
from sa.training import loop, replicas
from sa.types import Slots

F64 = torch.float64
DOREFA = DorefaGradient(2)
RANDOM = [DOREFA, TernGrad(), TernGrad(None), Uniform(3, rounding="stochastic")]


def task(gradient=DOREFA, activation=None, n=24, **settings):
    slots = Slots(Identity(), activation or Sign(), gradient)
    model = ToyMLP(quantizer=slots, dim=3, gain=math.sqrt(3))
    return studied(model=model, dataset=Gaussian(dim=3, n=n), **settings)


def estimate(estimator, gradient=DOREFA, seed=0, generator=None, **settings):
    p = prepare(task(gradient, **settings), 0)
    f = p.objective(p.batch(0))
    return estimator(f, p.params, estimator.init(p.params), generator or stream(seed))


SCORES = ("reinforce", "rloo", "arm", "disarm")
BACK = [
    name
    for name in options("estimator")
    if name not in ("flow", "spectral", *SCORES) and _backpropagates(component("estimator", name))
]


@pytest.mark.parametrize("name", BACK)
def test_gradient_noise_is_drawn_under_every_estimator_that_back_propagates(name):
    """The same seed repeats the noise, another seed changes it; the loss never has noise."""
    estimator = component("estimator", name)
    units = Bernoulli() if estimator.target == "stochastic" else Sign()
    got = partial(estimate, estimator, activation=units)
    one, same, other = got(), got(), got(seed=1)
    plain = got(gradient=None)
    assert torch.equal(flatten(one.grad), flatten(same.grad))
    assert not torch.equal(flatten(one.grad), flatten(other.grad))
    assert not torch.equal(flatten(one.grad), flatten(plain.grad))
    assert float(one.value) == float(plain.value)
    with surrogate.exact_gradients():  # without gradient noise nothing else differs
        bare = got()
    torch.testing.assert_close(flatten(bare.grad), flatten(plain.grad), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", RANDOM, ids=repr)
def test_each_call_draws_new_noise_and_the_same_generator_state_repeats_it(gradient):
    generator = stream(3)
    before = generator.get_state()
    first = estimate(STE(), gradient, generator=generator)
    second = estimate(STE(), gradient, generator=generator)
    again = estimate(STE(), gradient, generator=torch.Generator().set_state(before))
    assert not torch.equal(flatten(first.grad), flatten(second.grad))
    assert torch.equal(flatten(first.grad), flatten(again.grad))


def test_without_random_gradient_quantizers_the_generator_is_not_used():
    for gradient in (None, Uniform(3), DorefaGradient(2, "nearest")):
        generator = stream(3)
        before = generator.get_state()
        estimate(STE(), gradient, generator=generator)
        assert torch.equal(generator.get_state(), before)


def test_splitting_rows_into_chunks_does_not_change_the_gradient_noise():
    whole = flatten(estimate(STE()).grad)
    for memory in (2_000, 5_000):
        p = prepare(task(), 0)
        f, calls = p.objective(p.batch(0)), []
        f.forward.numerics = replace(f.forward.numerics, memory=memory)
        outputs = f.forward.outputs
        f.forward.outputs = lambda *a: calls.append(1) or outputs(*a)  # noqa: B023
        got = STE()(f, p.params, {}, stream(0)).grad
        assert len(calls) > 1
        torch.testing.assert_close(flatten(got), whole, rtol=1e-12, atol=1e-15)


def test_splitting_rows_over_processes_does_not_change_the_gradient_noise():
    p = prepare(task(), 0)
    whole, batch = p.objective(p.batch(0)), p.batch(0)
    _, law = whole.value_and_grad(p.params, generator=stream(1))
    total = torch.zeros_like(flatten(law))
    for start, stop in ((0, 7), (7, 16), (16, 24)):
        part = p.objective(batch.part(start, stop))
        part.first = start
        _, grad = part.value_and_grad(p.params, generator=stream(1))
        total += flatten(grad) * (stop - start) / batch.rows
    torch.testing.assert_close(total, flatten(law), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gradient", [*RANDOM, Uniform(2)], ids=repr)
def test_each_replica_quantizes_gradients_as_the_run_of_its_seed(gradient):
    sgd = partial(torch.optim.SGD, lr=0.5)
    how = {"steps": 3}

    def rows(p):
        start = loop.Progress(0, p.params, p.buffers, {}, {})
        return [x.params | {} for _, x in loop.loop(p, STE(), sgd, {}, progress=start, **how)][-1]

    made = task(gradient, batch_size=None)
    many = rows(replicas.stack(made, 3, 3))
    for i, seed in enumerate((3, 4, 5)):
        alone = rows(prepare(made, seed))
        for name, w in alone.items():
            torch.testing.assert_close(many[name][i], w, rtol=1e-9, atol=1e-12)


def test_a_training_resumed_from_a_checkpoint_repeats_its_gradient_noise():
    p = prepare(task(TernGrad(), batch_size=8), 0)
    sgd = partial(torch.optim.SGD, lr=0.1)

    def rows(progress):
        return list(loop.loop(prepare(task(TernGrad(), batch_size=8), 0), STE(), sgd, {}, steps=5,
                               progress=progress))  # fmt: skip

    start = loop.Progress(0, p.params, p.buffers, {}, {})
    whole = []
    for row, at in loop.loop(p, STE(), sgd, {}, steps=5, progress=start):
        whole.append(row)
        if row["step"] == 2:
            kept = loop.Progress(2, {k: v.clone() for k, v in at.params.items()}, {}, {}, {}, 6.0)
    assert [r for r, _ in rows(kept)] == whole[2:]


def test_both_ends_of_a_difference_of_gradients_share_the_noise(monkeypatch):
    p = prepare(task(), 0)
    f, seen = p.objective(p.batch(0)), []
    curvature = f.curvature
    monkeypatch.setattr(
        f, "curvature", lambda *a, gradient, **k: (
            seen.append([flatten(gradient(p.params)[0]) for _ in range(2)]),
            curvature(*a, gradient=gradient, **k),
        )[1],
    )  # fmt: skip
    spectral = Spectral(base=STE(), curvature="differences", n_filter=2, lr=0.1)
    spectral(f, p.params, spectral.init(p.params), stream(0))
    ((one, two),) = seen
    assert torch.equal(one, two)


# The mean E q(g) and the variance of each element, for a given gradient g


def quantized(q, g, seed):
    """Return q(g) for gradients g (rows, ...) as a backward pass computes it."""
    noise = GradientNoise(lambda: [seed])
    noise.begin(0, len(g))
    y = torch.zeros_like(g, requires_grad=True)
    with surrogate.drawing(noise):
        out = surrogate.back(y, q, "a layer")
    return torch.autograd.grad(out, y, g)[0]


def normal(*shape):
    return torch.randn(*shape, generator=stream(7), dtype=F64)


def law(q, g):
    """Return the mean and the variance of q(g)."""
    if isinstance(q, TernGrad):
        most = g.abs().max()
        if q.clip is not None:
            most = torch.minimum(most, q.clip * g.std(correction=0))
        clipped = g.clamp(-most, most)
        return clipped, clipped.abs() * (most - clipped.abs())
    if isinstance(q, DorefaGradient):
        step = 2 * g.abs().amax(1, keepdim=True) / (2**q.bits - 1)
        f = torch.frac((g + g.abs().amax(1, keepdim=True)) / step)
    else:
        step = g.abs().max() / (2 ** (q.bits - 1) - 1)
        f = (g / step) - torch.floor(g / step)
    return g, f * (1 - f) * step**2


@pytest.mark.parametrize("q", RANDOM, ids=repr)
def test_mean_and_variance_of_each_element_are_their_formulas(q):
    g, n = normal(4, 6), 4000  # g is repeated n times: its ranges are equal, its draws are not
    draws = quantized(q, g.repeat(n, 1), 0).view(n, 4, 6)
    mean, variance = law(q, g)
    error = (variance / n).sqrt()
    assert ((draws.mean(0) - mean).abs() <= 5 * error + 1e-12).all()
    # the fourth central moment is at most the largest squared deviation times the variance
    spread = ((draws - mean).square().amax(0) * variance / n).sqrt()
    assert ((draws.var(0) - variance).abs() <= 6 * spread + 1e-12).all()
    assert (variance > 0).sum() > 12


@pytest.mark.parametrize(("bits", "relative"), [(2, 0.668), (4, 0.0266), (6, 0.00148), (8, 9.2e-5)])
def test_dorefa_has_its_stated_relative_variance_and_nearest_rounding_has_half_of_it_as_bias(
    bits, relative
):
    g = normal(400, 200)
    _, variance = law(DorefaGradient(bits), g)
    square = float(g.square().sum())
    assert float(variance.sum()) / square == pytest.approx(relative, rel=0.03)
    error = quantized(DorefaGradient(bits, "nearest"), g, 0) - g
    assert float(error.square().sum()) / square == pytest.approx(relative / 2, rel=0.06)
    drawn = quantized(DorefaGradient(bits), g, 0) - g
    assert float(drawn.square().sum()) / square == pytest.approx(relative, rel=0.03)


def test_terngrad_has_its_stated_relative_variance_on_a_normal_gradient():
    g = normal(1000, 200)
    square = float(g.square().sum())
    mean, variance = law(TernGrad(), g)
    assert float(variance.sum()) / square == pytest.approx(1.0071, rel=0.01)
    assert float((mean - g).square().sum()) / square == pytest.approx(0.0023986, rel=0.05)
    drawn = quantized(TernGrad(), g, 0) - mean
    assert float(drawn.square().sum()) / square == pytest.approx(1.0071, rel=0.02)
    # without clipping it is max|g| E|g|/E g^2 - 1, which grows with the number of elements
    for rows in (10, 1000):
        some = normal(rows, 100)
        told = math.sqrt(2 / math.pi) * float(some.abs().max()) - 1
        drawn = quantized(TernGrad(None), some, 0) - some
        relative = float(drawn.square().sum() / some.square().sum())
        assert relative == pytest.approx(told, rel=0.2 if rows == 10 else 0.02)


def test_noisy_gradients_of_a_network_are_unbiased_with_variance_growing_towards_the_input():
    """A backward pass is linear in g, so unbiased noise in one layer stays unbiased below it."""
    p = prepare(task(DOREFA, n=16), 0)
    f, n = p.objective(p.batch(0)), 200
    got = STE()(f, p.params, {}, stream(0))
    analysis = BiasVariance(STE(), STE(), n)
    told = analysis(f, p.params, got, stream(1))
    assert 0.7 < told["bias_variance/z_rms"] < 1.3 and told["bias_variance/variance"] > 0.01
    truth = f.reference(STE(), p.params)
    generator = stream(2)
    draws = [STE()(f, p.params, {}, generator).grad for _ in range(n)]
    relative = []
    for name, g in truth.items():
        each = torch.stack([d[name] for d in draws])
        error = each.std(0) / math.sqrt(n)
        z = ((each.mean(0) - g) / error)[error > 1e-12 * each.abs().max()]
        if len(z):
            assert float(z.abs().max()) < 4.5, name
            relative.append(float(each.var(0).sum() / g.square().sum()))
    assert len(relative) >= 3 and relative[0] > relative[-1]


def test_nearest_rounding_of_gradients_has_bias_and_no_variance():
    p = prepare(task(DorefaGradient(2, "nearest")), 0)
    f = p.objective(p.batch(0))
    got = STE()(f, p.params, {}, stream(0))
    told = BiasVariance(STE(), STE(), 8)(f, p.params, got, stream(1))
    assert told["bias_variance/variance"] == 0 and told["bias_variance/bias2"] > 0.001


def test_the_error_for_a_backward_without_a_generator_says_what_to_pass():
    p = prepare(task(), 0)
    with pytest.raises(ValueError, match="generator=generator"):
        p.objective(p.batch(0)).value_and_grad(p.params)


def test_outside_an_objective_gradient_noise_uses_torchs_global_generator():
    p = prepare(task(activation=Identity()), 0)
    net = p.network.double()
    x, got = p.batch(0).inputs, []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        net.zero_grad()
        net(x).sum().backward()
        got.append(net.fc1.weight.grad.clone())
    assert torch.equal(got[0], got[1]) and not torch.equal(got[0], got[2])


def test_estimators_without_a_backward_refuse_a_gradient_quantizer_without_effect():
    told = "no effect"
    for name in SCORES:
        structure = task(activation=Bernoulli()).structure()
        with pytest.raises(ValueError, match=told):
            component("estimator", name).requires(structure)
    for name in set(options("estimator")) - {*BACK, *SCORES, "flow", "spectral"}:
        assert not _backpropagates(component("estimator", name)), name
    slope = component("estimator", "forward_gradient", surrogate="clipped")
    with pytest.raises(ValueError, match=told):
        slope.requires(task().structure())


def test_bias_variance_gradient_compares_the_estimator_with_itself():
    text = (CONF / "analysis" / "bias_variance_gradient.yaml").read_text()
    assert "reference: ${estimator}" in text
