"""Tests of differences along random directions against closed forms (T1, T3, T4 of truths.md)."""

import itertools
import math

import pytest
import torch

from benchmarks.laws import RESTS, rest
from sa import surrogate
from sa.estimator.ars import ARS
from sa.estimator.finite_difference import FiniteDifference
from sa.estimator.forward_gradient import ForwardGradient
from sa.estimator.mezo import MeZO
from sa.estimator.nes import NES
from sa.estimator.rdsa import RDSA
from sa.estimator.sphere import Sphere
from sa.estimator.spsa import SPSA
from sa.objective.function import from_function
from sa.params import flatten
from sa.types import Moment

DIM, SIGMA = 5, 0.3


def draws(estimator, loss, point, count):
    f = from_function(loss, vectorized=True)
    return torch.stack(
        [
            flatten(estimator(f, point, {}, torch.Generator().manual_seed(s)).grad)
            for s in range(count)
        ]
    )


def linear(dim):
    # no draw uses this seed: with a shared seed the first direction would be g itself
    g = torch.randn(dim, generator=torch.Generator().manual_seed(10**6), dtype=torch.float64)
    return g, lambda p: p["w"] @ g + 2.0


def at(*numbers):
    return {"w": torch.tensor(numbers, dtype=torch.float64)}


def near(samples, truth, slack=0.0):
    """Return whether the mean of many draws is within 4 standard errors of the truth."""
    return (
        abs(float(samples.mean()) - truth) <= 4 * float(samples.std()) / len(samples) ** 0.5 + slack
    )


@pytest.mark.parametrize(
    "make, law",
    [
        (SPSA, DIM - 1),
        (Sphere, DIM - 1),
        (RDSA, DIM - 1 / 5),
        (lambda **k: RDSA(distribution="asymmetric", skew=1.0, **k), DIM - 1 / 2),
        (MeZO, DIM + 1),
        (lambda sigma, samples: ForwardGradient(samples), DIM + 1),
    ],
    ids=["spsa", "sphere", "rdsa", "rdsa_asymmetric", "mezo", "forward_gradient"],
)
def test_t1_variance_on_a_linear_loss_falls_as_1_over_samples(make, law):
    g, loss = linear(DIM)
    counts, logs = (2, 32), []
    for n in counts:
        estimator = make(sigma=SIGMA, samples=n)
        got = draws(estimator, loss, at(*[0.0] * DIM), 400)
        assert near(got @ g / (g @ g), 1)
        relative = ((got - g) ** 2).sum(1) / (g @ g)
        # the laws of the estimators differ by 1/5 to 2, which is several standard errors
        assert near(relative * n, law)
        logs.append(float(relative.mean().log()))
        info = estimator(from_function(loss), at(*[0.0] * DIM), {}, torch.Generator()).info
        assert info["cosine_expected"] == pytest.approx(math.sqrt(n / (n + law)))
    slope = (logs[1] - logs[0]) / math.log(counts[1] / counts[0])
    assert abs(slope + 1) < 0.07  # two points of 400 draws: standard error about 0.02


def test_t3_descent_on_rosenbrock_stops_where_the_smoothed_gradient_is_0():
    """NES stops at x = a/(1 + 4 b sigma^2) = 0.2, CDG at 0.333 and 0.980, SPSA at the minimum."""
    xs = {}
    for name in ("cdg, eps 0.1", "cdg, eps 0.01", "finite_difference, eps 0.01", "spsa, sigma 0.1"):
        estimator, law = RESTS[name]
        xs[name] = float(rest(estimator)[0])
        torch.testing.assert_close(rest(estimator), at(*law)["w"], rtol=0, atol=1e-6)
    assert xs["cdg, eps 0.1"] == pytest.approx(0.333, abs=1e-3)
    assert xs["cdg, eps 0.01"] == pytest.approx(0.980, abs=1e-3)
    for name, x in (("nes, sigma 0.1", 0.2), ("sphere, sigma 0.1", 1 / 3)):
        estimator, law = RESTS[name]
        assert law[0] == pytest.approx(x)
        got = torch.stack([rest(estimator, seed) for seed in range(5)])
        assert near(got[:, 0], law[0]) and near(got[:, 1], law[1])
        assert float(got[:, 0].std()) < 0.03


@pytest.mark.parametrize("w", [0.1, -0.2, 0.45, 0.7])
def test_gradients_of_one_sign_are_its_derivative_smoothed_by_each_kernel(w):
    """Each estimator smooths sign(w) by its own kernel: a box, a parabola or a normal density."""
    t, step = w / SIGMA, lambda p: surrogate.sign(p["w"]).sum()
    box = 1 / SIGMA if abs(t) < 1 else 0.0
    for exact in (SPSA(SIGMA), Sphere(SIGMA)):
        torch.testing.assert_close(draws(exact, step, at(w), 1), at(box)["w"][None])
    parabola = 2 * max(0.0, 3 - t * t) / (4 * 3**0.5) / SIGMA
    assert near(draws(RDSA(SIGMA, 64), step, at(w), 100).flatten(), parabola, 1e-12)
    normal = 2 * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) / SIGMA
    assert near(draws(MeZO(SIGMA, 20), step, at(w), 100).flatten(), normal)
    forward = FiniteDifference(SIGMA)
    assert float(draws(forward, step, at(w), 1)) == (2 / SIGMA if -SIGMA <= w < 0 else 0.0)


def test_mean_of_spsa_is_the_gradient_of_the_loss_smoothed_over_a_cube():
    """Coordinate i is averaged over [-sigma, sigma], the other coordinates over the corners."""
    f = lambda p: torch.sin(3 * p["w"][0] * p["w"][1]) + p["w"][2] ** 3 * p["w"][0]  # noqa: E731
    w = at(0.3, -0.5, 0.8)["w"]
    truth = torch.zeros(3, dtype=torch.float64)
    for corner in itertools.product((-1.0, 1.0), repeat=3):
        for i in range(3):
            ends = []
            for end in (1.0, -1.0):
                moved = w + SIGMA * torch.tensor(corner, dtype=torch.float64)
                moved[i] = w[i] + end * SIGMA
                ends.append(float(f({"w": moved})))
            truth[i] += (ends[0] - ends[1]) / (2 * SIGMA) / 8
    got = draws(SPSA(SIGMA, 64), f, {"w": w}, 200)
    assert all(near(got[:, i], float(truth[i])) for i in range(3))


def test_t4_sphere_estimates_the_gradient_of_a_sign_unit_smoothed_over_a_ball():
    """In 3 dimensions the projection of a ball of radius R has density 3 (1 - (t/R)^2)/(4 R)."""
    x, w = at(0.6, -1.1, 0.3)["w"], at(0.2, 0.1, -0.4)["w"]
    got = draws(Sphere(0.4, 128), lambda p: surrogate.sign(p["w"] @ x), {"w": w}, 100)
    radius, t = 0.4 * 3**0.5, float(w @ x / x.norm())
    law = 2 * 0.75 / radius * (1 - (t / radius) ** 2) * x / x.norm()
    assert all(near(got[:, i], float(law[i])) for i in range(3))


@pytest.mark.parametrize("side, sign", [("forward", 1), ("backward", -1)])
def test_one_sided_differences_have_a_bias_of_half_epsilon_times_the_curvature(
    quadratic, side, sign
):
    got = FiniteDifference(0.2, side)(from_function(quadratic), quadratic.point, {}, None)
    law = quadratic.grad + sign * 0.1 * quadratic.h.diagonal()
    torch.testing.assert_close(flatten(got.grad), law, rtol=1e-9, atol=1e-10)
    assert got.evals == 7


def test_mezo_gives_the_estimate_of_the_same_directions_held_in_memory(quadratic):
    f, seeds = from_function(quadratic), torch.Generator().manual_seed(4)
    got = MeZO(0.1, 2)(f, quadratic.point, {}, torch.Generator().manual_seed(4))
    w, total = flatten(quadratic.point), 0.0
    for _ in range(2):
        replay = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=seeds)))
        e = torch.cat([torch.randn(n, generator=replay, dtype=torch.float64) for n in (4, 2)])
        total = total + (e @ (quadratic.h @ w + quadratic.b)) * e / 2
    torch.testing.assert_close(flatten(got.grad), total, rtol=1e-9, atol=1e-10)


def test_forward_gradient_uses_the_slope_that_is_set_for_steps():
    """The estimate is 0 behind a step; with a slope its mean is the STE gradient of that slope."""
    at_ = at(0.5, -3.0, 0.2)
    f = lambda p: surrogate.sign(p["w"]) @ torch.tensor([1.0, 2, 3], dtype=torch.float64)  # noqa: E731
    assert float(draws(ForwardGradient(4), f, at_, 1).abs().max()) == 0
    got = draws(ForwardGradient(64, "clipped"), f, at_, 100)
    assert all(near(got[:, i], x) for i, x in enumerate((1.0, 0.0, 3.0)))
    assert (ForwardGradient().target, ForwardGradient(1, "tanh").target) == ("true", "surrogate")


@pytest.mark.parametrize("unit", [surrogate.sign, surrogate.bernoulli])
def test_forward_mode_and_backward_use_the_same_slope(unit):
    at_ = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(0))}
    f = lambda p: surrogate.rounded(2 * unit(p["w"]) @ p["w"].T).square().mean()  # noqa: E731
    v = {"w": torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))}
    for vectorized in (True, False):
        loss = from_function(f, vectorized=vectorized)
        with surrogate.backward(lambda a: 1 / (1 + a * a)):
            forward = loss.directional(at_, v)
            grad = loss.value_and_grad(at_)[1]["w"]
        torch.testing.assert_close(forward.float(), (v["w"] * grad).sum((1, 2)))


def test_ars_has_the_same_expected_length_for_every_gradient_norm():
    g, loss = linear(50)
    for top, h in ((1.0, 1.0), (0.5, 1.857348)):
        estimator = ARS(SIGMA, 400, top)
        got = draws(estimator, loss, at(*[0.0] * 50), 40)
        # b is p N up to a relative error of 1/N
        assert near(got @ g / g.norm(), 2 * h**0.5, 0.01)
        cosines = got @ g / (got.norm(dim=1) * g.norm())
        info = estimator(from_function(loss), at(*[0.0] * 50), {}, torch.Generator()).info
        assert near(cosines, info["cosine_expected"], 0.5 / 50)
        assert info["cosine_expected"] == pytest.approx(
            (400 * top * h / (400 * top * h + 49)) ** 0.5
        )


@pytest.mark.parametrize("shaping", ["ranks", "utilities"])
def test_equal_losses_give_a_gradient_of_0(shaping):
    """Equal losses share a rank; otherwise their order of evaluation would give a random step."""
    flat = from_function(lambda p: p["w"].sum() * 0 + 1.0, vectorized=True)
    for estimator in (NES(shaping=shaping, samples=9), ARS(), SPSA(), NES(sigma="auto")):
        got = estimator(flat, at(1.0, 2.0), {}, torch.Generator().manual_seed(0))
        assert float(got.grad["w"].abs().max()) < 1e-12 and got.info["flat"] == 1.0


@pytest.mark.parametrize("make", [SPSA, Sphere, RDSA, MeZO, ARS, NES, FiniteDifference])
def test_a_sigma_that_rounding_would_erase_is_refused(make):
    # float32 numbers near 300 are 3e-5 apart
    point = {"w": torch.tensor([1.0, 300.0])}
    f = from_function(lambda p: p["w"].square().sum(), vectorized=True)
    with pytest.raises(ValueError, match=r"lost in rounding.*torch.float32.*300.*>= 0.004"):
        make(1e-6)(f, point, {}, torch.Generator())
    # in the middle of a training no error is raised: the loop records a divergence
    make(1e-6)(f, point, {}, torch.Generator(), Moment(1, 2))
    make(0.01)(f, point, {}, torch.Generator())
