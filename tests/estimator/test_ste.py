"""Tests of slopes against a table (T11) and of their bias on a known teacher (T5)."""

import math
from typing import get_args

import pytest
import torch
from conftest import component, share

from sa import surrogate
from sa.estimator import _slopes
from sa.estimator.ste import STE
from sa.objective.function import from_function
from sa.types import PROBE

TINY = 1e-12


def sech2(a):
    return 1 / math.cosh(a) ** 2


def swish(a):
    return 5 * (2 - 5 * a * math.tanh(2.5 * a)) / (1 + math.cosh(5 * a))


DSQ, DSPIKE = math.log(4) / 1.2, 3 / (2 * math.tanh(1.5))  # at a = 0; alpha 0.4, b 3
CHORD = 0.1 ** (-2 / 3)

TABLE = {  # (name, progress) -> {a: m(a)} at 0, on the borders and just outside; default scales
    ("identity", 0): {0: 1, -7: 1, 1e9: 1},
    ("clipped", 0): {0: 1, 1: 1, -1: 1, 1 + TINY: 0, -1 - TINY: 0},
    ("steep", 0): {0: 2, 0.5: 2, -0.5: 2, 0.5 + TINY: 0, -0.5 - TINY: 0},
    ("relu", 0): {0: 0, TINY: 1, -TINY: 0, 1e9: 1},
    ("clipped_relu", 0): {0: 0, TINY: 1, -TINY: 0, 1 - TINY: 1, 1: 0},
    ("tanh", 0): {0: 1, 0.5: sech2(0.5), -1: sech2(1)},
    ("sigmoid", 0): {0: 0.5, 1: 2 * math.e / (1 + math.e) ** 2, -1: 2 * math.e / (1 + math.e) ** 2},
    ("poly", 0): {0: 2, 0.5: 1, -0.5: 1, 1: 0, -1: 0, 1 + TINY: 0},
    ("swish", 0): {0: 5, 0.5: swish(0.5), -0.5: swish(0.5), 1: swish(1)},
    ("ede", 0): {0: 1, 1: sech2(0.1), -10: sech2(1)},  # t = 0.1, k = 10
    ("ede", 0.5): {0: 1, 1: sech2(1), -1: sech2(1)},  # t = 1, k = 1
    ("ede", 1): {0: 10, 0.1: 10 * sech2(1), -0.1: 10 * sech2(1)},  # t = 10, k = 1
    ("reste", 0): {0: 1, 0.1: 1, 1.5: 1, -1.5: 1, 1.5 + TINY: 0},  # o = 1
    ("reste", 0.5): {0: 0.1**-0.5, 1: 0.5, 0.25: 1, -0.25: 1},  # o = 2: the square root
    ("reste", 1): {  # o = 3
        0: CHORD,
        0.1: CHORD,
        -0.1: CHORD,
        0.1 + TINY: CHORD / 3,
        1: 1 / 3,
        1.5: 1.5 ** (-2 / 3) / 3,
        -1.5: 1.5 ** (-2 / 3) / 3,
        1.5 + TINY: 0,
        -1.5 - TINY: 0,
    },
    ("dsq", 0): {0: DSQ, 1: 0.64 * DSQ, -1: 0.64 * DSQ, 1 + TINY: 0},  # 1 - (1 - alpha)^2 = 0.64
    ("dspike", 0): {0: DSPIKE, 0.5: DSPIKE * sech2(1.5), -0.5: DSPIKE * sech2(1.5), 0.5 + TINY: 0},
    ("atan", 0): {0: 1, 1: 1 / (1 + math.pi**2), -1: 1 / (1 + math.pi**2)},
    ("fast_sigmoid", 0): {0: 1, 1: 1 / 676, -1: 1 / 676},
}


@pytest.mark.parametrize(("name", "progress"), list(TABLE))
def test_t11_every_slope_equals_its_table_of_values(name, progress):
    law = TABLE[name, progress]
    a = torch.tensor(list(law), dtype=torch.float64)
    f = from_function(lambda p: surrogate.sign(p["a"]).sum())
    got = STE(name)(f, {"a": a}, {}, torch.Generator(), share(progress)).grad["a"]
    truth = torch.tensor(list(law.values()), dtype=torch.float64)
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=0)


def test_table_settings_and_options_name_the_same_slopes():
    names = list(get_args(_slopes.Name))
    assert names == list(_slopes.SURROGATES) == list(dict.fromkeys(name for name, _ in TABLE))
    assert {n for n, p in TABLE if p == 1} == set(_slopes.SCHEDULES)
    for name in names:
        assert component("estimator", f"ste_{name}" if name != "identity" else "ste") == STE(name)


HEIGHTS = {  # (name, progress) -> integral of m over all a; 2 is the height of the sign
    **{(n, 0): 2 for n in ("clipped", "steep", "tanh", "sigmoid", "poly", "swish", "dsq")},
    ("ede", 0): 20,  # k = 1/t while t < 1 keeps the slope at 0 equal to 1
    ("ede", 0.5): 2,
    ("ede", 1): 2,
    ("reste", 0): 3,  # a window of half-width 1.5
    ("reste", 1): 2 * 1.5 ** (1 / 3),
    ("clipped_relu", 0): 1,  # states 0 and 1
    ("dspike", 0): 1,  # spikes 0 and 1
    ("atan", 0): 1,
    ("fast_sigmoid", 0): 0.08,  # its peak is 1 for every width
}
ENDLESS = {"identity", "relu"}


@pytest.mark.parametrize(("name", "progress"), list(HEIGHTS))
def test_slopes_integrate_to_their_stated_height(name, progress):
    u = torch.linspace(-12, 12, 800_001, dtype=torch.float64)  # a = sinh u reaches heavy tails
    m = _slopes.rule(name, None, progress)(torch.sinh(u)) * torch.cosh(u)
    assert float(torch.trapezoid(m, u)) == pytest.approx(HEIGHTS[name, progress], abs=1e-3)
    assert {n for n, _ in HEIGHTS} | ENDLESS == set(_slopes.SURROGATES)


@pytest.mark.parametrize("name", ["steep", "tanh", "sigmoid", "poly", "swish", "dsq"])
@pytest.mark.parametrize("scale", [0.3, 0.9])
def test_slopes_integrate_to_2_at_every_scale(name, scale):
    u = torch.linspace(-6, 6, 800_001, dtype=torch.float64)
    m = _slopes.rule(name, scale)(torch.sinh(u)) * torch.cosh(u)
    assert float(torch.trapezoid(m, u)) == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("name", ["clipped", "steep", "poly", "dsq"])
def test_slopes_no_wider_than_a_step_give_rounding_the_mean_slope_1(name):
    x = torch.linspace(0, 7, 700_001, dtype=torch.float64)[:-1].requires_grad_()
    with surrogate.backward(_slopes.rule(name)):
        surrogate.rounded(x).sum().backward()
    assert float(x.grad.mean()) == pytest.approx(1, abs=1e-4)  # 7 steps of height 1


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_sets_the_width_of_clipped_and_the_steepness_of_tanh(scale):
    a = torch.tensor([0.3, 0.5, 0.6, 2.0, 2.1], dtype=torch.float64)
    assert _slopes.rule("clipped", scale)(a).tolist() == [float(abs(v) <= scale) for v in a]
    tanh = scale * (1 - torch.tanh(scale * a) ** 2)
    torch.testing.assert_close(_slopes.rule("tanh", scale)(a), tanh)


@pytest.mark.parametrize("name", list(_slopes.SURROGATES))
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_slopes_of_float32_are_finite_everywhere(name, progress):
    a = torch.tensor([0, 1e-40, 1e-3, 1, 17, 1e4, 1e20, 3e38], dtype=torch.float32)
    m = _slopes.rule(name, None, progress)(torch.cat([-a, a]))
    assert m.dtype == torch.float32 and m.isfinite().all()
    if name not in ENDLESS:
        assert (m.view(2, -1)[:, -1].abs() < 1e-6).all()


@pytest.mark.parametrize("name", ["identity", "relu", "clipped_relu"])
def test_a_slope_without_a_scale_refuses_one(name):
    with pytest.raises(ValueError, match=f"surrogate={name} has no scale, but scale is 2.0"):
        STE(name, scale=2.0)


def test_the_alpha_of_dsq_is_below_1():
    with pytest.raises(ValueError, match="alpha of surrogate=dsq must be below 1"):
        STE("dsq", scale=1.0)


def test_a_schedule_ends_at_its_scale_and_starts_where_it_says():
    a = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
    for t, progress in ((0.1, 0), (0.3, 0.5), (0.9, 1)):  # 0.1 * 9^p
        law = max(1 / t, 1) * t * (1 - torch.tanh(t * a) ** 2)
        torch.testing.assert_close(_slopes.rule("ede", 0.9, progress)(a), law)
    assert torch.equal(_slopes.rule("reste", 9.0)(a), torch.ones_like(a))
    f, at = from_function(lambda p: surrogate.sign(p["a"]).sum()), {"a": a}
    start, zero, end = (
        STE("ede")(f, at, {}, torch.Generator(), moment).grad["a"]
        for moment in (PROBE, share(0.0), share(1.0))
    )
    assert torch.equal(start, zero) and not torch.allclose(start, end)


ANGLES = [0.3, 0.8, 1.4, 2.0, 2.7]


def teacher(theta, surrogates, dim=6, batches=150, rows=4000):
    """Return w, the teacher's weights, losses (k,) and gradients {name: (k, dim)} of k batches.

    w has length 1.7 and the angle theta to the teacher's weights, which have length 0.6.
    """
    g = torch.Generator().manual_seed(5)
    frame = torch.linalg.qr(torch.randn(dim, 2, generator=g, dtype=torch.float64)).Q.T
    w, truth = 1.7 * frame[0], 0.6 * (math.cos(theta) * frame[0] + math.sin(theta) * frame[1])
    losses, grads = [], {name: [] for name in surrogates}
    for _ in range(batches):
        x = torch.randn(rows, dim, generator=g, dtype=torch.float64)
        target = surrogate.hard_sign(x @ truth)

        def loss(p, x=x, target=target):
            return (surrogate.sign(x @ p["w"]) - target).square().mean()

        for name in surrogates:
            got = STE(name)(from_function(loss), {"w": w}, {}, torch.Generator())
            grads[name].append(got.grad["w"])
        losses.append(got.value)
    return w, truth, torch.stack(losses), {k: torch.stack(v) for k, v in grads.items()}


def cosine(grads, along):
    """Return the cosine of the mean of k gradients with a unit vector, and its standard error."""
    mean = grads.mean(0)
    size = mean.norm()
    value = float(mean @ along / size)
    turn = grads @ (along - value * mean / size) / size  # linear in each batch's gradient
    return value, float(turn.std()) / len(grads) ** 0.5


@pytest.mark.parametrize("theta", ANGLES)
def test_t5_cosine_of_ste_to_the_true_gradient_is_cos_half_theta(theta):
    w, truth, losses, grads = teacher(theta, ["identity", "clipped"])
    root = len(losses) ** 0.5
    assert abs(float(losses.mean()) - 4 * theta / math.pi) <= 4 * float(losses.std()) / root
    # the gradient of 4 theta/pi is -4/(pi |w|) u; u is the unit part of the teacher orthogonal to w
    u = truth - (truth @ w) / (w @ w) * w
    u /= u.norm()
    # the mean of the identity STE has this direction and length
    law = 2 * math.sqrt(2 / math.pi) * (w / w.norm() - truth / truth.norm())
    ste = grads["identity"]
    assert ((ste.mean(0) - law).abs() <= 4 * ste.std(0) / root).all()
    value, error = cosine(ste, -u)
    other, doubt = cosine(grads["clipped"], -u)
    print(
        f"theta {theta:.1f}: cos(identity, true) {value:.5f} +- {error:.5f}, cos(theta/2) "
        f"{math.cos(theta / 2):.5f}; clipped {other:.5f} +- {doubt:.5f}"
    )
    assert error < 3e-3
    assert abs(value - math.cos(theta / 2)) <= 4 * error
    assert abs(other - math.cos(theta / 2)) > 4 * doubt  # the law holds for the identity alone


def test_the_gradient_of_a_sign_is_0_unless_a_slope_is_set():
    f = from_function(lambda p: (surrogate.sign(p["w"]) * 3).sum())
    value, grad = f.value_and_grad({"w": torch.tensor([0.2, -0.7])})
    assert float(value) == 0.0 and not grad["w"].any()


def test_a_slope_is_in_force_only_inside_its_with_block():
    with surrogate.backward(_slopes.rule("identity")):
        pass
    x = torch.tensor([0.5], requires_grad=True)
    surrogate.sign(x).sum().backward()
    assert x.grad.item() == 0.0


def test_a_slope_under_vmap_equals_a_loop_over_rows():
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss(row):
        return (surrogate.sign(row) * torch.arange(3.0)).sum()

    with surrogate.backward(_slopes.rule("tanh")):
        mapped = torch.vmap(torch.func.grad(loss))(x)
    expected = (1 - torch.tanh(x) ** 2) * torch.arange(3.0)
    torch.testing.assert_close(mapped, expected)


def test_sign_of_0_is_1():
    assert surrogate.sign(torch.tensor([0.0, -0.0])).tolist() == [1.0, 1.0]
