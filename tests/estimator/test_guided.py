"""Tests of estimators guided by surrogate gradients or past estimates against closed forms."""

import io

import pytest
import torch
from conftest import component, share
from pydantic import ValidationError
from test_laws import run

from sa.estimator import _guide
from sa.estimator.fogzo import FOGZO
from sa.estimator.guided_es import GuidedES
from sa.estimator.orthonormal_probe import OrthonormalProbe
from sa.estimator.sges import SGES
from sa.objective.function import from_function
from sa.params import flatten

DIM = 20
G, H, PAST = torch.randn(3, DIM, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
H += G  # a surrogate gradient at about 45 degrees
POINT = {"w": torch.zeros(DIM, dtype=torch.float64)}
EYE = torch.eye(DIM, dtype=torch.float64)


def misled(p):
    """Return g.w + 1, whose back-propagated gradient is h instead of g."""
    by = p["w"] @ H
    return p["w"].detach() @ G + 1 + by - by.detach()


LOSS = from_function(misled, vectorized=True)


def square_cosine(a, b):
    return (a @ b) ** 2 / ((a * a).sum(-1) * (b @ b))


def draws(estimator, state, count):
    return torch.stack(
        [
            estimator(LOSS, POINT, state, torch.Generator().manual_seed(s)).grad["w"]
            for s in range(count)
        ]
    )


def is_mean(got, law):
    return ((got.mean(0) - law).abs() <= 4.5 * got.std(0) / len(got) ** 0.5 + 1e-12).all()


def projector(*rows):
    u = torch.linalg.qr(torch.stack(rows).T)[0]
    return u @ u.T


def test_the_test_loss_has_the_wrong_surrogate_gradient():
    value, guide = _guide.gradient(LOSS, POINT, "clipped", torch.Generator())
    assert float(value) == 1 and torch.equal(guide, H)


def test_orthonormal_rows_span_the_same_space_in_the_same_order():
    rows = torch.stack([2 * H, 0 * H, -H, PAST, PAST + 1e-9 * G, G])
    q = _guide.orthonormal(rows)
    torch.testing.assert_close(q @ q.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(q.T @ q, projector(H, PAST, G))
    torch.testing.assert_close(q[0], H / H.norm())


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, None), (0.1, DIM), (0.0, None), (1.0, None)])
def test_mean_of_guided_es_is_beta_times_its_covariance_times_the_gradient(alpha, beta):
    state = {"recent": PAST[None]}
    got = draws(GuidedES(alpha=alpha, k=2, beta=beta, samples=10), state, 500)
    s = alpha / DIM * EYE + (1 - alpha) / 2 * projector(H, PAST)
    scale = 1 / (alpha / DIM + (1 - alpha) / 2) if beta is None else beta
    assert is_mean(got, scale * s @ G)
    assert alpha == 1.0 or not is_mean(got, G)  # the bias is large enough to be measured


def test_guided_es_is_unbiased_when_its_guide_is_the_gradient():
    true = from_function(lambda p: p["w"] @ G, vectorized=True)
    got = torch.stack([run(GuidedES(alpha=0.3), true, POINT, s).grad["w"] for s in range(300)])
    assert is_mean(got, G)


def test_guided_es_keeps_only_the_last_k_surrogate_gradients():
    estimator, state = GuidedES(k=3), GuidedES(k=3).init(POINT)
    for _ in range(4):
        state = estimator(LOSS, POINT, state, torch.Generator().manual_seed(0)).state
    assert torch.equal(state["recent"], H.expand(3, DIM))
    got = estimator(LOSS, POINT, {"recent": torch.stack([PAST, G, H])}, torch.Generator())
    assert torch.equal(got.state["recent"], torch.stack([G, H, H]))
    assert got.info["subspace"] == 2  # two of the three stored vectors are h


def test_a_subspace_is_reported_with_at_most_d_dimensions():
    g = torch.Generator().manual_seed(3)
    recent = torch.randn(DIM + 5, DIM, generator=g, dtype=torch.float64)
    for estimator in (GuidedES(k=DIM + 5), SGES(k=DIM + 5)):
        assert estimator(LOSS, POINT, {"recent": recent, "alpha": 0.5}, g).info["subspace"] == DIM


@pytest.mark.parametrize("k", [1, 6, 15])
def test_squared_cosine_of_orthonormal_probe_follows_its_formula(k):
    c0 = float(square_cosine(H, G))
    got = draws(OrthonormalProbe(samples=k), {}, 400)
    square = square_cosine(got, G)
    law = c0 + (1 - c0) * k / (DIM - 1)
    assert abs(float(square.mean()) - law) < 4 * float(square.std()) / 20
    assert square.min() > c0 - 1e-12  # never worse than the surrogate
    torch.testing.assert_close(got @ G / (G @ G), square)  # the length is that of a projection


def test_orthonormal_probe_is_exact_at_full_rank_and_refuses_more_samples():
    got = run(OrthonormalProbe(samples=DIM - 1), LOSS, POINT)
    torch.testing.assert_close(got.grad["w"], G)
    assert got.evals == 2 * DIM + 3
    with pytest.raises(ValueError, match="samples=20 .* 21 directions, .* only 20 .* <= 19"):
        run(OrthonormalProbe(samples=DIM), LOSS, POINT)


def test_guided_estimators_use_random_directions_when_the_surrogate_gradient_is_0():
    flat = from_function(lambda p: p["w"].detach() @ G, vectorized=True)
    assert run(OrthonormalProbe(samples=3), flat, POINT).evals == 2 * 3 + 3
    assert run(FOGZO(), flat, POINT).info["beta"] == 0
    got = torch.stack([run(GuidedES(), flat, POINT, s).grad["w"] for s in range(300)])
    assert is_mean(got, G)


def test_mean_of_sges_is_its_formula_and_sges_is_unbiased_in_its_warm_up():
    estimator = SGES(k=2, samples=10, alpha=0.4)
    state = {"recent": torch.stack([H, PAST]), "alpha": 0.7}
    s = 0.35 * projector(H, PAST) + 0.3 / DIM * EYE
    got = draws(estimator, state, 600)
    assert is_mean(got, s @ G / (0.35 + 0.3 / DIM)) and not is_mean(got, G)
    assert is_mean(draws(estimator, {"recent": H[None], "alpha": 0.7}, 600), G)


def test_sges_samples_a_subspace_more_often_when_it_finds_lower_losses():
    for guide, rises in ((G, True), (PAST - PAST @ G / (G @ G) * G, False)):
        estimator, state = SGES(k=1), {"recent": guide[None], "alpha": 0.5}
        got = estimator(LOSS, POINT, state, torch.Generator().manual_seed(0))
        assert got.state["alpha"] == pytest.approx(0.5 * 1.05 if rises else 0.5 / 1.05)
    at_most = estimator(LOSS, POINT, {"recent": G[None], "alpha": 0.8}, torch.Generator())
    assert at_most.state["alpha"] == 0.8


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_mean_of_fogzo_mixes_the_gradient_with_its_projection_on_the_surrogate(noise):
    estimator = FOGZO(beta=0.6, samples=20, noise=noise)
    got = draws(estimator, {}, 600)
    assert is_mean(got, 0.6 * projector(H) @ G + 0.4 * G) and not is_mean(got, G)
    alone = {"uniform": "cube", "gaussian": "gaussian"}[noise]
    assert estimator.target == ("none" if estimator.beta else alone)
    assert FOGZO(beta=0, noise=noise).target == alone


def test_fogzo_anneals_beta_from_1_to_its_setting():
    estimator = FOGZO(beta=0.9, anneal=True)
    for progress, beta in ((0.0, 1.0), (0.5, 0.95), (1.0, 0.9)):
        got = estimator(LOSS, POINT, {}, torch.Generator(), share(progress))
        assert got.info["beta"] == pytest.approx(beta)
        if beta == 1:  # the derivative along the surrogate gradient
            torch.testing.assert_close(got.grad["w"], projector(H) @ G)


@pytest.mark.parametrize("name", ["guided_es", "sges"])
def test_estimates_are_the_same_after_the_state_was_saved_and_loaded(name, quadratic):
    estimator = component("estimator", name, k=2)
    f = from_function(quadratic, vectorized=True)

    def chain(keep):
        state, at, out = estimator.init(quadratic.point), quadratic.point, []
        for step in range(5):
            got = estimator(f, at, keep(state), torch.Generator().manual_seed(step))
            state, at = got.state, {k: v - 0.1 * got.grad[k] for k, v in at.items()}
            out.append(flatten(got.grad))
        return torch.stack(out)

    def reload(state):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file)

    assert torch.equal(chain(lambda state: state), chain(reload))
    assert not torch.equal(chain(lambda state: {}), chain(reload))  # without the state it differs


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GuidedES("clip"), lambda: GuidedES(alpha=1.1), lambda: GuidedES(k=0),
        lambda: SGES(rate=1), lambda: SGES(low=0.6), lambda: FOGZO(beta=1.5),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        wrong()
    with pytest.raises(ValidationError, match="should be .identity., .clipped."):
        GuidedES("clip")
