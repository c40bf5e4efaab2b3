"""Tests of estimators for random units against the enumeration of all states (T7, T9)."""

import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import component, options, studied
from test_laws import problem, run

from sa import surrogate
from sa.dataset.digits import Digits
from sa.estimator import _slopes
from sa.estimator._noise import Noise
from sa.estimator.sr_ste import SRSTE
from sa.model.cnn import CNN
from sa.model.mlp import MLP
from sa.network.hooks import trait
from sa.objective.function import RowFunction, from_function
from sa.objective.objective import Objective
from sa.objective.prepare import prepare
from sa.params import flatten
from sa.quantizer.bernoulli import Bernoulli
from sa.quantizer.none import Identity
from sa.quantizer.relaxed_bernoulli import RelaxedBernoulli
from sa.types import Batch, Slots

RANDOM_UNITS = {
    x: trait(component("estimator", x), "laws")
    for x in options("estimator")
    if component("estimator", x).target == "stochastic"
}
UNBIASED = [x for x, excused in RANDOM_UNITS.items() if "unbiased" not in excused]
STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10))).double()
PHI = torch.randn(10, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def quadratic(b):
    return (b.sum(-1) - 4.5) ** 2


def cubic(b):
    return (b.sum(-1) - 4.5) ** 3


def exact(f, phi):
    phi = phi.clone().requires_grad_()
    log_p = F.logsigmoid(phi * (2 * STATES - 1)).sum(1)
    return torch.autograd.grad((log_p.exp() * f(STATES)).sum(), phi)[0]


def draws(name, f, phi, count=20_000, state=None, seed=5, **settings):
    """Return count independent estimates (count, d), and the whole estimate.

    One call gives them all: it has count rows, each with its own logits.
    """

    def rows(params, part):
        at = part.inputs[:, 0].long()
        return f((1 + surrogate.bernoulli(params["phi"][at])) / 2)

    index = torch.arange(count, dtype=torch.float64)[:, None]
    it = Objective(RowFunction(rows, width=20), Batch(index, index))
    many = {"phi": phi.expand(count, -1).clone()}
    estimator = component("estimator", name, **settings)
    got = estimator(it, many, state or {}, torch.Generator().manual_seed(seed))
    return count * got.grad["phi"], got


def z_scores(got, truth):
    return (got.mean(0) - truth).abs() / (got.std(0) / len(got) ** 0.5)


@pytest.mark.parametrize("f", [quadratic, cubic])
@pytest.mark.parametrize("name", UNBIASED)
def test_t7_unbiased_estimators_have_the_enumerated_gradient_as_mean(name, f):
    got, _ = draws(name, f, PHI)
    assert z_scores(got, exact(f, PHI)).max() < 4.5
    wrong = 2 if f is quadratic else 1.2
    assert z_scores(got, wrong * exact(f, PHI)).max() > 5  # the test has enough draws


@pytest.mark.parametrize("name", ["gumbel", "sr_ste", "sr_ste_relaxed", "st", "st_gumbel"])
def test_t7_biased_estimators_miss_the_enumerated_gradient(name):
    assert z_scores(draws(name, quadratic, PHI)[0], exact(quadratic, PHI)).max() > 20


def test_st_is_exact_for_linear_losses_and_for_logits_of_0():
    def linear(b):
        return b @ torch.arange(10.0, dtype=torch.float64)

    torch.testing.assert_close(draws("st", linear, PHI, 2)[0][0], exact(linear, PHI))
    zero = torch.zeros(10, dtype=torch.float64)
    assert z_scores(draws("st", quadratic, zero)[0], exact(quadratic, zero)).max() < 4.5


def test_reinmax_is_exact_on_quadratics_and_not_on_cubics():
    # ReinMax is exact on quadratics at temperature 1, where ST is biased, and biased on cubics
    assert z_scores(draws("reinmax", quadratic, PHI)[0], exact(quadratic, PHI)).max() < 4.5
    hot = draws("reinmax", quadratic, PHI, temperature=2.0)[0]
    assert z_scores(hot, exact(quadratic, PHI)).max() > 5
    phi = torch.tensor([0.8], dtype=torch.float64)
    p = float(torch.sigmoid(phi))
    for power, heun in [(1, 1.0), (2, 1.0), (3, 1.5)]:  # (f'(0) + f'(1))/2 for f = b^power
        got, _ = draws("reinmax", lambda b, n=power: b.sum(-1) ** n, phi, 40_000)
        law = torch.tensor([p * (1 - p) * heun], dtype=torch.float64)
        assert z_scores(got, law).max() < 4.5


def test_t7_variances_equal_those_of_the_enumeration():
    """Variances are summed over coordinates, for one evaluation (a pair for rloo)."""
    p = torch.sigmoid(PHI)
    chance = (STATES * p + (1 - STATES) * (1 - p)).prod(1)
    f, g = quadratic(STATES), exact(quadratic, PHI)
    score = (chance[:, None] * (f[:, None] * (STATES - p) - g).square()).sum()
    pair = (f[:, None, None] - f[None, :, None]) * (STATES[:, None] - STATES[None]) / 2
    two = ((chance[:, None] * chance)[..., None] * (pair - g).square()).sum()
    # for DisARM, enumerate the pairs of every unit: equal states, or different ones in two orders
    apart = torch.minimum(p, 1 - p)
    pairs = torch.tensor(list(itertools.product((0, 1, -1), repeat=10)))  # b1 - b2
    odds = torch.where(pairs == 0, (2 * p - 1).abs(), apart).prod(1)
    common = (p > 0.5).double().expand(len(pairs), -1)  # the state of both if they are equal
    up, down = (torch.where(pairs == 0, common, (1 + s * pairs) / 2) for s in (1, -1))
    gain = (quadratic(up) - quadratic(down))[:, None] / 2 * pairs * torch.sigmoid(PHI.abs())
    disarm = (odds[:, None] * (gain - g).square()).sum()
    got = {n: float(draws(n, quadratic, PHI)[0].var(0).sum()) for n in RANDOM_UNITS}
    print({k: round(v, 2) for k, v in got.items()})
    assert got["reinforce"] == pytest.approx(float(score), rel=0.06)  # 33.2
    assert got["rloo"] == pytest.approx(float(two), rel=0.06)  # 20.7
    assert got["disarm"] == pytest.approx(float(disarm), rel=0.06)  # 8.0
    assert got["disarm"] < got["arm"] < got["rebar"] < got["rloo"] < got["reinforce"]


def test_relax_learns_to_lower_its_variance():
    state = {}
    for seed in range(150):
        _, got = draws("relax", quadratic, PHI, 200, state, seed, lr=0.03)
        state = got.state
    before, _ = draws("relax", quadratic, PHI)
    after, got = draws("relax", quadratic, PHI, state=state)
    print(float(before.var(0).sum()), float(after.var(0).sum()), got.info)
    assert after.var(0).sum() < 0.87 * before.var(0).sum()  # 12.5 of 15.3
    assert z_scores(after, exact(quadratic, PHI)).max() < 4.5
    saved = io.BytesIO()
    torch.save(state, saved)  # a checkpoint can hold it: dicts of tensors and numbers
    saved.seek(0)
    again, _ = draws("relax", quadratic, PHI, state=torch.load(saved, weights_only=True))
    assert torch.equal(again, after)
    known = {k: v.clone() for k, v in state["variate"].items()}
    draws("relax", quadratic, PHI, 10, state)
    for k, v in known.items():
        assert torch.equal(state["variate"][k], v)  # a call returns a new state


def test_relax_before_learning_is_rebar():
    rebar, relax = (draws(n, quadratic, PHI, 50)[0] for n in ("rebar", "relax"))
    torch.testing.assert_close(rebar, relax)


def test_the_running_baseline_lowers_the_variance_and_adds_no_bias():
    state = {"loss": 3.0}
    got, after = draws("reinforce", quadratic, PHI, state=state, baseline="running")
    plain, first = draws("reinforce", quadratic, PHI, baseline="running")
    mean = float(first.state["loss"])
    assert z_scores(got, exact(quadratic, PHI)).max() < 4.5
    assert got.var(0).sum() < 0.8 * plain.var(0).sum()
    assert after.state["loss"] == pytest.approx(0.9 * 3 + 0.1 * mean)
    chance = torch.sigmoid(PHI)
    truth = float((chance.sum() - 4.5) ** 2 + (chance * (1 - chance)).sum())
    assert mean == pytest.approx(truth, rel=0.05)


# A network of two layers of random units, 3 units and then 2. The second layer reads the input too,
# and the first map is used again after the last unit, so every kind of gradient path occurs.

SHAPES = {"a": (3, 2), "b": (2, 5), "c": (3, 2), "bias": (3,)}


def forward(params, x, unit):
    phi = x @ params["a"].T
    one = unit(0, phi)
    two = unit(1, torch.cat([one, x], 1) @ params["b"].T)
    return two @ params["c"].T + torch.tanh(phi) + params["bias"]


def tiny(copies=1):
    """Return the objective of the network with every row repeated, and its point."""
    g = torch.Generator().manual_seed(2)
    point = {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in SHAPES.items()}
    x = torch.randn(3, 2, generator=g, dtype=torch.float64).repeat(copies, 1)
    y = torch.tensor([0, 1, 2]).repeat(copies)

    def rows(params, part):
        out = forward(params, part.inputs, lambda k, phi: surrogate.bernoulli(phi))
        return F.cross_entropy(out, part.targets, reduction="none")

    return Objective(RowFunction(rows, width=20), Batch(x, y)), point


def enumerated(point):
    """Return the gradient of the expected loss, by all states of both layers for every row."""
    f, _ = tiny()
    leaves = {k: v.clone().requires_grad_() for k, v in point.items()}
    total = 0.0
    for bits in itertools.product((-1.0, 1.0), repeat=5):
        states = torch.tensor(bits, dtype=torch.float64).expand(3, 5).split((3, 2), dim=1)
        chance = []

        def unit(k, phi, states=states, chance=chance):
            chance.append(F.logsigmoid(phi * states[k]).sum(1))
            return states[k]

        out = forward(leaves, f.batch.inputs, unit)
        losses = F.cross_entropy(out, f.batch.targets, reduction="none")
        total = total + (sum(chance).exp() * losses).mean()
    grads = torch.autograd.grad(total, list(leaves.values()))
    return flatten(dict(zip(leaves, grads, strict=True)))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_are_unbiased_for_two_layers_of_random_units(name, samples):
    f, point = tiny(100)
    samples = samples + (name == "rloo")
    estimator = component("estimator", name, samples=samples)
    count = 60 if samples < 3 else 20
    got = torch.stack([flatten(run(estimator, f, point, s).grad) for s in range(count)])
    truth = enumerated(point)
    assert z_scores(got, truth).max() < 4.5
    assert z_scores(got, 1.2 * truth).max() > 5
    layer = flatten({k: torch.full(s, float(k == "a")) for k, s in SHAPES.items()}) > 0
    without = torch.where(layer, 0.0, truth)  # the first layer's gradient is not lost in noise
    assert z_scores(got, without).max() > 5


@pytest.mark.parametrize("name", ["st", "reinmax", "gumbel", "st_gumbel"])
def test_biased_estimators_with_hard_states_are_unbiased_in_the_last_layer(name):
    f, point = tiny(100)
    estimator = component("estimator", name)
    got = torch.stack([flatten(run(estimator, f, point, s).grad) for s in range(60)])
    z = z_scores(got, enumerated(point))
    assert (z[-9:].max() < 4.5) == (name != "gumbel")  # c and bias come after the last unit
    assert z[:-9].max() > 5


@pytest.mark.parametrize("name", UNBIASED)
def test_units_that_act_on_the_loss_of_other_rows_are_unbiased_too(name):
    """A batch mean after the units makes each row's units act on the loss of the other row."""
    g = torch.Generator().manual_seed(0)
    phi = torch.randn(2, 2, generator=g, dtype=torch.float64)

    def losses(s):  # (2, 2) states -> (2,)
        centred = s - s.mean(0)
        return (centred @ torch.tensor([1.0, 2.0], dtype=torch.float64) - 1).square() + s.sum(1)

    leaf, total = phi.clone().requires_grad_(), 0.0
    for bits in itertools.product((-1.0, 1.0), repeat=4):
        s = torch.tensor(bits, dtype=torch.float64).view(2, 2)
        total = total + F.logsigmoid(s * leaf).sum().exp() * losses(s).mean()
    truth = torch.autograd.grad(total, leaf)[0].flatten()

    def rows(params, part):
        return losses(surrogate.bernoulli(params["phi"]))

    def drawn(coupled):
        forward = RowFunction(rows, coupled=coupled)
        f = Objective(forward, Batch(torch.zeros(2, 1), torch.zeros(2, 1)))
        e = component("estimator", name, samples=4)
        return torch.stack([run(e, f, {"phi": phi}, s).grad["phi"].flatten() for s in range(160)])

    assert z_scores(drawn(True), truth).max() < 4.5
    if name in ("reinforce", "disarm"):  # with coupled=False they are wrong
        assert z_scores(drawn(False), truth).max() > 6


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_a_plain_function_of_random_units_is_estimated(name):
    f = from_function(lambda p: quadratic((1 + surrogate.bernoulli(p["w"])) / 2))
    estimator = component("estimator", name)
    got = torch.stack([run(estimator, f, {"w": PHI}, s).grad["w"] for s in range(300)])
    if name in [*UNBIASED, "reinmax"]:
        assert z_scores(got, exact(quadratic, PHI)).max() < 4.5
    value = run(estimator, f, {"w": PHI}).value
    assert float(value) == float(quadratic((PHI >= 0).double()))


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_variance_falls_as_1_over_the_number_of_samples(name):
    few, many = (draws(name, quadratic, PHI, 4000, samples=m)[0].var(0).sum() for m in (2, 8))
    # the variance of rloo is a/K + c/(K (K - 1)) with a = c: its baseline improves with K
    law = 4 if name != "rloo" else 7
    assert float(few / many) == pytest.approx(law, rel=0.2)


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_evals_of_random_units_are_the_evaluations_that_were_run(name):
    f, point = tiny(2)
    own, spent = f.rows, []
    settings = {"lr": 0.0} if name == "relax" else {}

    def counted(params, part):
        out = own(params, part)
        spent.append(3 if out.requires_grad else 1)
        return out

    f.rows = counted
    got = run(component("estimator", name, samples=3, **settings), f, point)
    assert got.evals == sum(spent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 5])
def test_noise_of_a_row_does_not_depend_on_the_chunks(width, dtype):
    def drawn(*parts):
        noise, out = Noise(torch.Generator().manual_seed(0)), []
        for n in parts:
            noise.begin(n)
            phi = torch.zeros(n, width, dtype=dtype)
            out.append(noise.draw(0, phi))
            assert noise.draw(0, phi) is out[-1]  # replayed
            assert not torch.equal(noise.draw(1, phi), out[-1])
        return torch.cat(out)

    whole = drawn(600)
    for parts in ([1] * 600, [7, 593], [15, 16, 17, 552], [256, 344]):
        assert torch.equal(drawn(*parts), whole)
    assert whole.isfinite().all() and abs(float(whole.mean())) < 5 * 3.3**0.5 / len(whole) ** 0.5


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_t9_a_unit_is_up_with_probability_p_at_every_temperature(temperature):
    a, count = torch.linspace(-2, 2, 9, dtype=torch.float64), 20_000
    p = (a / 2 + 1) / 2
    noise = Noise(torch.Generator().manual_seed(1))
    noise.begin(count)

    def unit(k, phi):
        y = torch.sigmoid((phi + noise.draw(k, phi)) / temperature)
        assert torch.equal(noise.states(k, phi), surrogate.hard_sign(y - 0.5))
        return noise.states(k, phi)

    with surrogate.sampling(unit):
        up = (RelaxedBernoulli()(a.expand(count, -1)) > 0).double().mean(0)
    assert ((up - p).abs() <= 4.5 * (p * (1 - p) / count).sqrt() + 1e-5).all()
    flips = torch.where(a >= 0, 1 - p, p).mean()
    assert noise.info["flip_rate"] == pytest.approx(float(flips), abs=0.005)


def test_a_temperature_without_effect_is_refused():
    with pytest.raises(ValueError, match="for every temperature.*backward=relaxed"):
        SRSTE(temperature=0.5)
    with pytest.raises(ValueError, match="temperature=1"):
        SRSTE(backward="relaxed")


@pytest.mark.parametrize("name", ["identity", "clipped", "tanh"])
def test_sr_ste_multiplies_by_the_slope_at_the_activation(name):
    a = torch.tensor([[-3.0, -0.5, 0.2, 1.5]], dtype=torch.float64)
    c = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    f = from_function(lambda p: (RelaxedBernoulli()(p["a"]) * c).sum())
    got = run(SRSTE(surrogate=name), f, {"a": a}).grad["a"]
    torch.testing.assert_close(got, _slopes.rule(name)(a) * c)


def test_sr_ste_relaxed_back_propagates_the_relaxed_sample():
    a = torch.tensor([[-3.0, -0.5, 0.2, 1.5]], dtype=torch.float64)
    f = from_function(lambda p: RelaxedBernoulli(normaliser="fixed", scale=4)(p["a"]).sum())
    noise = Noise(torch.Generator().manual_seed(0))
    noise.begin(1)
    leaf = a.clone().requires_grad_()
    phi = torch.log((1 + leaf / 4) / (1 - leaf / 4))
    y = torch.sigmoid((phi + noise.draw(0, phi)) / 0.7)
    (law,) = torch.autograd.grad((2 * y - 1).sum(), leaf)
    got = run(SRSTE(backward="relaxed", temperature=0.7), f, {"a": a}).grad["a"]
    torch.testing.assert_close(got, law)


def digits(activation, memory=1 << 26, **settings):
    model = MLP(quantizer=Slots(Identity(), activation), hidden=(6, 5), **settings)
    return prepare(studied(model=model, dataset=Digits(), memory=memory, batch_size=60), 0)


def test_a_scale_taken_from_the_batch_keeps_its_rows_in_one_chunk():
    grads = {}
    for kind, own in [
        ("max", RelaxedBernoulli()),
        ("sample", RelaxedBernoulli(granularity="sample")),
        ("fixed", RelaxedBernoulli(normaliser="fixed")),
    ]:
        for memory in (1 << 26, 100_000):
            p = digits(own, memory)
            f = p.objective(p.batch(0))
            assert f.coupled == (kind == "max")
            whole = kind == "max" or memory > 100_000
            assert (f._chunk_sizes(1, 2 * p.forward.width)[1] == 60) == whole
            grads[kind, memory] = flatten(run(component("estimator", "sr_ste"), f, p.params).grad)
        torch.testing.assert_close(grads[kind, 100_000], grads[kind, 1 << 26])
    assert not torch.allclose(grads["max", 1 << 26], grads["sample", 1 << 26])
    with pytest.raises(ValueError, match="60 rows that RelaxedBernoulli.*granularity=sample"):
        digits(RelaxedBernoulli(), 20_000)


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_networks_without_random_units_are_refused(name, quadratic):
    estimator = component("estimator", name)
    p = problem("ste")
    with pytest.raises(ValueError, match="quantizer/activation=bernoulli"):
        estimator.requires(p.structure)
    with pytest.raises(ValueError, match="quantizer=sba"):
        run(estimator, p.objective(p.batch(0)), p.params)
    estimator.requires(problem(name).structure)
    plain = from_function(quadratic)
    estimator.requires(plain.structure)  # whether a function has random units is unknown here
    with pytest.raises(ValueError, match="surrogate.bernoulli"):
        run(estimator, plain, quadratic.point)


def test_units_without_rows_are_refused():
    f, point = tiny()
    f.rows = lambda params, part: surrogate.bernoulli(params["bias"][:2]).sum().expand(3)
    with pytest.raises(ValueError, match=r"\(rows, ...\).*\(2,\) for 3 rows"):
        run(component("estimator", "st"), f, point)


@pytest.mark.parametrize("name", RANDOM_UNITS)
def test_gradients_of_a_float32_convolutional_network_are_finite(name):
    slots = Slots(Identity(), Bernoulli())
    model = CNN(quantizer=slots, channels=(2, 3), norm="none")
    p = prepare(studied(model=model, dataset=Digits(), dtype="float32", batch_size=20), 0)
    got = run(component("estimator", name), p.objective(p.batch(0)), p.params)
    assert all(g.isfinite().all() and g.any() for g in got.grad.values())


def test_presets_of_random_units_exist():
    assert "sr_act" in options("quantizer") and "sba" in options("quantizer")
