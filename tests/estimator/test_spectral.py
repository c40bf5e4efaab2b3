"""Tests of spectral acceleration: its formulas, its safeguard, its report and exact resuming."""

import io
import math
from functools import partial

import pytest
import torch
from conftest import component, studied

from sa.dataset.digits import Digits
from sa.estimator import _spectrum
from sa.estimator.spectral import Spectral
from sa.estimator.ste import STE
from sa.model.fc import FC
from sa.model.mlp import MLP
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import flatten, stream
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.training import loop
from sa.types import Moment, Slots

VALUES = [10.0, 8.0, 6.0, 1.0, 0.5, 0.25, 0.1, 0.05]
PLAIN = {"safeguard": None, "n_filter": 3, "refresh": 20, "lr": 0.1}


def quadratic(values=VALUES):
    """Return f(w) = w'Hw/2 as an objective, a point, the eigenvalues and eigenvectors (rows)."""
    lam = torch.tensor(values, dtype=torch.float64)
    draw = torch.randn(len(lam), len(lam), generator=stream(0, "basis"), dtype=torch.float64)
    q = torch.linalg.qr(draw).Q.T
    h = q.T * lam @ q
    f = from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)
    w = torch.randn(len(lam), generator=stream(1, "start"), dtype=torch.float64)
    return f, {"a": w[:4], "b": w[4:]}, lam, q


def descend(estimator, f, at, steps, **told):
    """Return the points and the estimates of gradient descent that starts at ``at``."""
    state, points, got = estimator.init(at), [at], []
    for _ in range(steps):
        got.append(estimator(f, points[-1], state | told, stream(0, "steps")))
        state = got[-1].state
        points.append({k: p - estimator.lr * got[-1].grad[k] for k, p in points[-1].items()})
    return points, got


def once(f, at, **settings):
    return descend(Spectral(**PLAIN | settings), f, at, 1)[1][0]


def digits(**settings):
    task = studied(FC(shape=(1, 8, 8), hidden=(8,)), Digits(), criterion="mse", **settings)
    return prepare(task, 0)


# Formulas


@pytest.mark.parametrize("mode", ["flat_v1", "flat_v2", "filter", "dynamic", "global"])
def test_each_mode_multiplies_the_gradient_as_its_formula_says(mode):
    f, at, lam, q = quadratic()
    gamma, lr, g = 2.0, 0.1, q @ flatten(f.value_and_grad(at)[1])
    reach = (1 / (lr * lam)).clamp(max=gamma)
    known = {
        "flat_v1": [0.0] * 3 + [gamma] * 5,
        "flat_v2": [1.0] * 3 + [gamma] * 5,
        "filter": [*reach[:3].tolist()] + [gamma] * 5,
        "dynamic": [*reach[:3].tolist()] + [gamma] * 5,  # three are above 2/(2 gamma lr) = 5
        "global": [gamma] * 8,
    }
    got = q @ flatten(once(f, at, mode=mode).grad)
    truth = torch.tensor(known[mode], dtype=torch.float64) * g
    torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-6)


def test_filter_mode_minimises_along_its_directions_in_one_step():
    f, at, _, q = quadratic()
    points, _ = descend(Spectral(**PLAIN, mode="filter", scale=5.0), f, at, 1)
    assert float((q[:3] @ flatten(points[1])).abs().max()) < 1e-6


def test_global_mode_is_gradient_descent_at_a_larger_rate_and_the_same_cost():
    f, at, _, _ = quadratic()
    got = once(f, at, mode="global", scale=1.7)
    grad = f.value_and_grad(at)[1]
    assert all(torch.equal(got.grad[k], 1.7 * grad[k]) for k in grad)
    assert got.evals == 3.0


def test_flat_v2_with_scale_1_is_gradient_descent():
    f, at, _, _ = quadratic()
    got = once(f, at, mode="flat_v2", scale=1.0)
    torch.testing.assert_close(flatten(got.grad), flatten(f.value_and_grad(at)[1]))


def test_eigenvectors_stay_orthonormal_when_they_are_refreshed():
    f = digits().objective(digits().batch(0))
    estimator = Spectral(**PLAIN | {"refresh": 2, "n_filter": 5})
    _, got = descend(estimator, f, digits().params, 6)
    assert [e.info["refreshed"] for e in got] == [1, 0, 1, 0, 1, 0]
    u = got[-1].state["spaces"]["network"]["vectors"]
    eye = torch.eye(len(u), dtype=torch.float64)
    torch.testing.assert_close(u @ u.T, eye, rtol=0, atol=1e-12)
    assert [e.info["products"] for e in got[2:]] == [9, 0, 9, 0]  # k + 4 for each refresh


def test_flat_v1_does_not_move_along_the_top_eigenvectors():
    p = digits()
    estimator = Spectral(**PLAIN | {"n_filter": 5}, mode="flat_v1")
    points, got = descend(estimator, p.objective(p.batch(0)), p.params, 10)
    u = got[0].state["spaces"]["network"]["vectors"][:5]
    first, last = (u @ flatten(w) for w in (points[0], points[-1]))
    torch.testing.assert_close(first, last, rtol=0, atol=1e-12)
    assert not torch.allclose(flatten(points[0]), flatten(points[-1]))


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("share", [0.98, 1.02])
def test_flat_v2_is_stable_below_the_headroom_and_diverges_above_it(momentum, nesterov, share):
    f, at, lam, q = quadratic()
    m = (2 + 2 * momentum) / (1 + 2 * momentum) if nesterov else 2 * (1 + momentum)
    settings = PLAIN | {"momentum": momentum, "nesterov": nesterov, "refresh": 10**6}
    bound = m / (0.1 * float(lam[3]))
    points, got = descend(Spectral(**settings, scale=share * bound), f, at, 400)
    assert got[-1].info["headroom"] == pytest.approx(bound, rel=1e-6)
    then, now = (abs(float(q[3] @ flatten(w))) for w in (points[0], points[-1]))
    assert now < then if share < 1 else now > 10 * then


def test_above_rate_2_over_lambda_1_descent_diverges_and_flat_v1_does_not():
    f, at, lam, q = quadratic()
    lr = 2.1 / float(lam[0])
    plain, _ = descend(Spectral(**PLAIN | {"lr": lr}, mode="global", scale=1.0), f, at, 200)
    held, _ = descend(Spectral(**PLAIN | {"lr": lr}, mode="flat_v1", scale=1.0), f, at, 200)
    first, plain, held = (q @ flatten(w) for w in (at, plain[-1], held[-1]))
    assert abs(float(plain[0])) > 1e4 * abs(float(first[0]))
    assert (plain[1:].abs() < first[1:].abs()).all()
    torch.testing.assert_close(held[:3], first[:3], rtol=1e-6, atol=1e-9)


def test_blocks_give_the_step_of_the_whole_on_a_block_diagonal_quadratic():
    lam = torch.tensor([9.0, 7, 0.5, 0.1, 8.0, 6, 0.4, 0.2], dtype=torch.float64)
    turn = [torch.linalg.qr(torch.randn(4, 4, generator=stream(i, "q")).double()).Q for i in (0, 1)]
    h = torch.block_diag(*(q * part @ q.T for q, part in zip(turn, lam.split(4), strict=True)))
    f = from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)
    at = {k: torch.ones(2, 2, dtype=torch.float64) for k in ("a", "b")}
    whole = once(f, at, n_filter=4, blocks="network")
    for blocks in ("module", "tensor", {"x": ("a",), "rest": ("*",)}):
        parts = once(f, at, n_filter=2, blocks=blocks)
        torch.testing.assert_close(flatten(parts.grad), flatten(whole.grad), rtol=1e-6, atol=1e-6)
    assert parts.info["x/lambda_1"] == pytest.approx(9) and parts.info["gap"] == pytest.approx(14)


def test_blocks_across_layers_keep_the_order_of_the_tensors():
    p = digits()
    f = p.objective(p.batch(0))
    got = once(f, p.params, blocks={"weights": ("*.weight",), "biases": ("*.bias",)})
    assert list(got.grad) == list(p.params)


def test_a_block_finds_every_copy_of_a_repeated_eigenvalue():
    task = Task(FC(shape=(1, 8, 8), hidden=(4,)), Digits(), criterion="mse")
    p = prepare(task, 0)
    info = once(p.objective(p.batch(0)), p.params, n_filter=12, blocks="module").info
    values = torch.tensor([info[f"head/lambda_{i}"] for i in range(1, 14)], dtype=torch.float64)
    # under MSE each eigenvalue of the last layer appears once for each of the ten classes
    torch.testing.assert_close(values[:10], values[:1].expand(10), rtol=1e-4, atol=0)
    assert values[10] < 0.9 * values[9]


def test_abridged_takes_the_curvature_of_the_first_rows():
    p = digits()
    whole, few = p.objective(p.batch(0)), p.objective(p.data.train.part(0, 20))
    few.whole = None
    lambdas = [
        once(f, p.params, abridged=rows).info["lambda_1"]
        for f, rows in ((whole, 20), (few, None), (whole, None))
    ]
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-4)
    assert lambdas[2] != pytest.approx(lambdas[1], rel=1e-2)


def test_momentum_without_filtering_is_that_of_torch_sgd():
    p = digits()
    f = p.objective(p.batch(0))
    for nesterov in (False, True):
        estimator = Spectral(**PLAIN, mode="global", scale=1.0, momentum=0.9, nesterov=nesterov)
        points, _ = descend(estimator, f, p.params, 5)
        mine = {k: v.clone() for k, v in p.params.items()}
        theirs = torch.optim.SGD(mine.values(), lr=0.1, momentum=0.9, nesterov=nesterov)
        for _ in range(5):
            for k, g in f.value_and_grad(mine)[1].items():
                mine[k].grad = g
            theirs.step()
        torch.testing.assert_close(flatten(points[-1]), flatten(mine))


def test_the_momentum_buffer_is_not_filtered():
    f, at, _, _ = quadratic()
    got = once(f, at, mode="flat_v1", momentum=0.9)
    torch.testing.assert_close(got.state["buffer"], f.value_and_grad(at)[1])


# The safeguard


def test_the_scale_grows_by_1_percent_a_step_to_its_share_of_the_headroom():
    f, at, lam, _ = quadratic()
    settings = PLAIN | {"safeguard": 0.7, "refresh": 500}
    _, got = descend(Spectral(**settings, scale=100.0), f, at, 320)
    gammas = [e.info["gamma"] for e in got]
    assert gammas[:3] == pytest.approx([1, 1.01, 1.01**2])
    assert gammas[-1] == pytest.approx(0.7 * 2 / (0.1 * float(lam[3])))
    _, got = descend(Spectral(**settings, scale=1.5), f, at, 60)
    assert got[-1].info["gamma"] == 1.5


def test_a_rising_loss_halves_the_scale_and_refreshes_the_eigenvectors_once():
    f, at, _, _ = quadratic()
    estimator = Spectral(**PLAIN | {"safeguard": 0.7, "refresh": 500})
    first = estimator(f, at, estimator.init(at), stream(0, "a"))
    near = {k: math.sqrt(1.09) * v for k, v in at.items()}  # a loss 9 % higher is not yet a rise
    quiet = estimator(f, near, first.state, stream(0, "b"))
    assert quiet.info["gamma"] == 1.01 * first.info["gamma"] and quiet.info["refreshed"] == 0
    far = {k: 3 * v for k, v in at.items()}
    risen = estimator(f, far, first.state, stream(0, "b"))
    assert risen.info["gamma"] == 0.5 * first.info["gamma"] and risen.info["refreshed"] == 1
    assert risen.info["products"] == 2 * 7  # two rounds of k + 4 columns
    again = estimator(f, far, risen.state, stream(0, "c"))  # compared with the higher loss
    assert again.info["gamma"] == 1.01 * risen.info["gamma"] and again.info["refreshed"] == 0


def test_spectral_with_safeguard_beats_descent_and_reports_its_higher_cost():
    p = digits()
    f = p.objective(p.batch(0))
    lr = 0.5
    own = PLAIN | {"lr": lr, "n_filter": 10, "safeguard": 0.7, "refresh": 50}
    _, fast = descend(Spectral(**own, mode="filter", scale=20.0), f, p.params, 150)
    _, slow = descend(
        Spectral(**own | {"safeguard": None}, mode="global", scale=1.0), f, p.params, 150
    )
    assert fast[-1].value < 0.9 * slow[-1].value
    assert sum(e.evals for e in fast) > sum(e.evals for e in slow) == 450


# Its report


def test_dynamic_mode_takes_more_directions_at_a_larger_scale():
    values = [10.0 - 0.2 * i for i in range(30)] + [0.1] * 10
    f, at, _, _ = quadratic(values)
    got = once(f, at, mode="dynamic", n_filter=4, scale=2.5)
    # thirty eigenvalues are above 2/(2 gamma lr) = 4; the number doubles: 4, 8, 16, 32
    assert got.state["spaces"]["network"]["k"] == 32
    few = once(f, at, mode="dynamic", n_filter=4, scale=1.03)  # two eigenvalues are above 9.709
    assert few.state["spaces"]["network"]["k"] == 4


def test_info_has_eigenvalues_gap_edge_norms_and_note():
    f, at, lam, q = quadratic()
    grad = q @ flatten(f.value_and_grad(at)[1])
    info = once(f, at, mode="flat_v1").info
    assert [info[f"lambda_{i}"] for i in range(1, 5)] == pytest.approx(lam[:4].tolist())
    assert info["gap"] == pytest.approx(6) and info["edge"] == pytest.approx(20)
    top = float(grad[:3].square().sum() / grad.square().sum())
    assert info["top_share"] == pytest.approx(top, rel=1e-5)
    assert info["norm_before"] == pytest.approx(float(grad.norm()))
    assert info["norm_after"] == pytest.approx(2 * float(grad[3:].norm()), rel=1e-5)
    assert info["note"] == ""  # an empty note replaces the note of an earlier refresh
    note = once(f, at, scale=40.0).info["note"]
    assert note.startswith("no gap for scale 40: the headroom is 20; a larger n_filter")
    note = once(f, at, scale=40.0, mode="global", safeguard=0.7).info["note"]
    assert note == "no room for scale 40: the headroom is 2; a smaller scale, or mode=flat_v2"


def test_the_decomposition_adds_up_to_the_change_of_a_quadratic_loss():
    f, at, _, q = quadratic()
    estimator = Spectral(**PLAIN, mode="global", scale=1.0, decompose=True)
    points, got = descend(estimator, f, at, 5)
    change = {k: got[-1].info[f"change/{k}"] for k in ("top", "bulk", "full")}
    assert change["full"] == pytest.approx(float(f.value(points[-1]) - f.value(at)), rel=1e-9)
    assert change["top"] + change["bulk"] == pytest.approx(change["full"], rel=1e-5)


def test_the_decomposition_uses_the_curvature_of_the_abridged_rows():
    p = digits()
    whole, few = p.objective(p.batch(0)), p.objective(p.data.train.part(0, 20))
    few.whole = None
    grad = whole.value_and_grad(p.params)[1]
    squared = float(sum((g * g).sum() for g in grad.values()))
    for f, rows in ((few, 20), (whole, None)):
        bent = f.hvp(p.params, grad)
        curved = float(sum((grad[k] * bent[k]).sum() for k in grad))
        estimator = Spectral(**PLAIN, mode="global", scale=1.0, decompose=True, abridged=rows)
        told = descend(estimator, whole, p.params, 1)[1][0].info["change/full"]
        assert told == pytest.approx(-0.1 * squared + 0.005 * curved, rel=1e-4)


def test_overlap_is_1_on_a_quadratic():
    f, at, _, _ = quadratic()
    _, got = descend(Spectral(**PLAIN | {"refresh": 1}), f, at, 3)
    assert math.isnan(got[0].info["overlap"])
    assert got[2].info["overlap"] == pytest.approx(1)


def test_the_overlap_of_many_blocks_is_summed_in_a_fixed_order():
    draw = torch.randn(2, 300, 2, 5, generator=stream(0, "spaces"), dtype=torch.float64)
    rows = torch.linalg.qr(draw.mT).Q.mT
    last = range(299, -1, -1)  # a set would iterate over these numbers in another order
    old, new = ({i: {"vectors": us[i], "k": 2} for i in last} for us in rows)
    each = [_spectrum.overlap({b: old[b]}, {b: new[b]}) for b in old]
    # another order would change the last digit of a resumed run
    assert _spectrum.overlap(old, new) == sum(each) / 300


# Straight-through


def test_spectral_filters_a_straight_through_gradient_of_a_quantized_network():
    slots = Slots(Identity(), Sign())
    model = MLP(quantizer=slots, shape=(1, 8, 8), hidden=(6,), outputs=10)
    p = prepare(studied(model, Digits(), dtype="float64"), 0)
    f = p.objective(p.data.train.part(0, 200))
    own = PLAIN | {"base": STE("clipped"), "curvature": "differences", "mode": "flat_v1"}
    estimator = Spectral(**own)
    got = estimator(f, p.params, estimator.init(p.params), stream(0, "a"))
    assert got.evals == 3 + 8 * 7 * 6 and got.info["products"] == 56  # 8 rounds of k + 4
    u = got.state["spaces"]["network"]["vectors"][:3]
    base, mine = (flatten(g) for g in (STE("clipped")(f, p.params, {}, None).grad, got.grad))
    torch.testing.assert_close(mine, 2 * (base - (u @ base) @ u))
    for wrong in (Spectral(), Spectral(base=STE()), Spectral(curvature="differences")):
        with pytest.raises(ValueError, match="no loss' Hessian; take estimator=spectral_ste"):
            wrong.requires(p.structure)
    estimator.requires(p.structure)


def test_differences_of_gradients_find_the_top_eigenvectors_of_the_hessian():
    f, at, lam, _ = quadratic()
    hessian = once(f, at, mode="flat_v1")
    estimator = component("estimator", "spectral_ste", **PLAIN, mode="flat_v1")
    got = estimator(f, at, estimator.init(at), stream(0, "a"))
    torch.testing.assert_close(flatten(got.grad), flatten(hessian.grad), rtol=1e-3, atol=1e-3)
    assert got.info["lambda_1"] == pytest.approx(float(lam[0]), rel=1e-3)


# Refusals and resuming


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"nesterov": True}, "nesterov=true needs momentum"),
        ({"mode": "dynamic", "n_filter": 41}, "dynamic filters at most 40"),
        ({"base": Spectral()}, "base: Spectral makes the step itself.*take an estimator of a grad"),
        ({"curvature": "differences", "abridged": 5}, "need the Hessian"),
        ({"scale": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        Spectral(**settings)


def test_more_directions_than_a_block_has_parameters_are_refused():
    f, at, _, _ = quadratic()
    with pytest.raises(ValueError, match="n_filter=4: block 'a' has 4 parameters; set n_filter"):
        once(f, at, n_filter=4, blocks="tensor")


def test_the_learning_rate_is_required_and_comes_from_the_training():
    f, at, _, _ = quadratic()
    estimator = Spectral(n_filter=3)
    with pytest.raises(ValueError, match="the rate of the step is not known: set lr"):
        estimator(f, at, estimator.init(at), stream(0, "a"))
    got = estimator(f, at, estimator.init(at), stream(0, "a"), Moment(lr=0.5))
    assert got.info["edge"] == 4


def test_trainings_at_another_rate_or_on_minibatches_are_refused():
    with pytest.raises(ValueError, match="lr=0.1: the training's rate is 0.5; leave out"):
        Spectral(lr=0.1).trains(100, torch.optim.SGD, {"lr": 0.5})
    with pytest.raises(
        ValueError, match="safeguard=0.7: the loss of one minibatch.*safeguard=null"
    ):
        Spectral().trains(100, torch.optim.SGD, {"lr": 0.5}, 32)
    Spectral(lr=0.5, safeguard=None).trains(100, torch.optim.SGD, {"lr": 0.5}, 32)


@pytest.mark.parametrize("mode", ["flat_v1", "filter", "dynamic", "global"])
def test_at_learning_rate_0_the_headroom_is_unlimited(mode):
    f, at, _, _ = quadratic()
    estimator = Spectral(**PLAIN | {"lr": None, "safeguard": 0.7}, mode=mode)
    got = estimator(f, at, estimator.init(at), stream(0, "a"), Moment(lr=0.0))
    assert got.info["gamma"] == 1.0 and got.info["headroom"] > 1e20
    if mode != "flat_v1":
        torch.testing.assert_close(flatten(got.grad), flatten(f.value_and_grad(at)[1]))


@pytest.mark.parametrize("settings", [{}, {"base": STE(), "curvature": "differences"}])
def test_a_loss_that_overflows_at_a_refresh_ends_the_training_as_diverged(settings):
    p = digits(dtype="float32")
    estimator = Spectral(n_filter=3, scale=1e8, refresh=1, safeguard=None, **settings)
    sgd = partial(torch.optim.SGD, lr=1.0)
    *_, (row, _) = loop.loop(p, estimator, sgd, {}, steps=20, progress=loop.start(p))
    assert "diverged" in row and row["step"] < 20


@pytest.mark.parametrize("batch_size", [None, 300])
def test_a_resumed_training_with_spectral_repeats_every_bit(batch_size):
    p = digits(batch_size=batch_size)
    estimator = Spectral(
        mode="dynamic", n_filter=4, refresh=5, momentum=0.5, abridged=400, blocks="module"
    )
    sgd = partial(torch.optim.SGD, lr=0.3)

    def run(progress):
        kept = []
        for row, now in loop.loop(p, estimator, sgd, {}, steps=13, progress=progress):
            buffer = io.BytesIO()
            torch.save(now.pack(), buffer)
            kept.append((repr(row), buffer))
        return kept

    whole = run(loop.start(p))
    for at in (3, 5, 8):
        whole[at][1].seek(0)
        progress = loop.Progress(**torch.load(whole[at][1], weights_only=True))
        assert [r for r, _ in run(progress)] == [r for r, _ in whole[at:]]
