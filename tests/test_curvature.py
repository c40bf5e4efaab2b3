"""Tests of curvature against closed forms, torch's Hessian, scipy's eigsh and curvlinops."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse.linalg as sparse
import torch
from conftest import component, studied

from sa.curvature import solve, stochastic
from sa.dataset.digits import Digits
from sa.model.convnet import ConvNet
from sa.model.fc import FC
from sa.model.mlp import MLP
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.params import flatten, grouped, size, stream, unflatten
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Slots


def network(model=None, memory=1 << 28, dtype="float64", rows=200, criterion="mse", **task):
    """Return the objective of a small tanh network on the first digits, and its point."""
    model = model or FC(shape=(1, 8, 8), hidden=(4,), outputs=10)
    p = prepare(
        studied(model, Digits(), criterion=criterion, memory=memory, dtype=dtype, **task), 0
    )
    return p.objective(p.data.train.part(0, rows)), p.params


def alone(objective):
    """Return the objective with its own rows as all the data."""
    objective.whole = None
    return objective


def hessian(f, params):
    """Return the dense Hessian by torch.autograd.functional."""

    def loss(w):
        return f.rows(unflatten(w, params), f.batch).mean()

    return torch.autograd.functional.hessian(loss, flatten(params))


def known(values, seed=0):
    """Return a quadratic as an objective, its point, its eigenvalues and eigenvectors (columns)."""
    lam = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    draw = torch.randn(len(lam), len(lam), generator=stream(seed, "basis"), dtype=torch.float64)
    q = torch.linalg.qr(draw).Q
    matrix = q * lam @ q.T
    f = from_function(lambda p: p["w"] @ matrix @ p["w"] / 2)
    return f, {"w": torch.ones(len(lam), dtype=torch.float64)}, lam, q


@pytest.mark.parametrize("criterion", ["mse", "ce"])
def test_hessian_products_equal_those_of_the_dense_hessian(criterion):
    f, params = network(criterion=criterion)
    f = alone(f)
    h = hessian(f, params)
    v = torch.randn(3, len(h), generator=stream(0, "v"), dtype=torch.float64)
    got = f.curvature(params).product(v)
    torch.testing.assert_close(got, v @ h, rtol=1e-10, atol=1e-12)
    one = f.hvp(params, unflatten(v[0], params))
    assert list(one) == list(params)
    torch.testing.assert_close(flatten(one), h @ v[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("model", [None, ConvNet(shape=(1, 8, 8), channels=(4, 4))])
def test_products_with_stored_and_rebuilt_graphs_agree(model):
    got, engines = [], []
    for share in (2.0, 0.6, 0.1):  # memory as a share of what the graph of all rows needs
        f, params = network(model, dtype="float32")
        memory = int(share * 4 * f.forward.width * f.batch.rows)
        f.forward.numerics = replace(f.forward.numerics, memory=memory)
        c = alone(f).curvature(params)
        v = torch.randn(2, size(params), generator=stream(0, "v"))
        got.append(c.product(v))
        engines.append((len(c.engine.graphs), len(c.engine.rest)))
    assert engines[0] == (2, 0) and all(engines[1]) and engines[2][1] > engines[1][1]
    for other in got[1:]:
        assert float((other - got[0]).norm() / got[0].norm()) <= 1e-6


def test_hvp_keeps_its_graph_at_one_point_and_rebuilds_it_at_another(quadratic):
    f = from_function(lambda p: quadratic(p) + p["v"].pow(4).sum())
    point = {k: v.clone() for k, v in quadratic.point.items()}
    v = {k: torch.ones_like(p) for k, p in point.items()}
    one = f.hvp(point, v)
    kept = f._curvatures.get(point)
    f.hvp(point, v)
    assert f._curvatures.get(point) is kept
    point["v"] += 1.0
    moved = f.hvp(point, v)
    extra = 12 * (point["v"].square() - (point["v"] - 1).square())
    torch.testing.assert_close(moved["v"] - one["v"], extra)
    torch.testing.assert_close(moved["m"], one["m"])


def test_a_linear_loss_has_no_curvature():
    f = from_function(lambda p: p["w"].sum())
    assert not f.hvp({"w": torch.ones(3)}, {"w": torch.ones(3)})["w"].any()


def test_rows_selects_the_first_rows_of_all_data_and_not_of_the_minibatch():
    f, params = network(rows=20)
    v = torch.randn(1, size(params), generator=stream(0, "v"), dtype=torch.float64)
    all_rows, some = f.curvature(params).product(v), f.curvature(params, rows=50).product(v)
    assert f.batch.rows == 20 and f.whole.batch.rows == 1437
    first = alone(network(rows=50)[0])
    torch.testing.assert_close(some, first.curvature(params).product(v))
    assert not torch.allclose(all_rows, some)


def test_products_and_evals_are_counted():
    for memory, built in ((1 << 30, 1), (1, 2)):
        f, params = network()
        f = alone(f)
        f.forward.numerics = replace(f.forward.numerics, memory=memory)
        c = f.curvature(params)
        c.within(["fc1.weight"]).product(torch.ones(2, 256, dtype=torch.float64))
        c.product(torch.ones(1, size(params), dtype=torch.float64))
        assert c.products == 3
        # a rebuilt graph serves all vectors of one call
        assert c.evals == pytest.approx(3.9 * built + 3.6 * 3)


@pytest.mark.parametrize("width", [0, 1, 4, 10])
@pytest.mark.parametrize(
    "values",
    [
        [9.0, 7, 5, 5, 5, 2, 1] + [0.0] * 53,  # rank 7 with one eigenvalue three times
        [3.0] * 10 + [1.0] * 50,
        [float(i) for i in range(-30, 30)],
        [-100.0, 5, 4, 3] + [0.1] * 56,  # the eigenvalue of largest magnitude is negative
        [0.0] * 12,
    ],
)
def test_top_finds_the_largest_eigenvalues_of_a_known_spectrum(values, width):
    f, at, lam, q = known(values)
    c, draw = f.curvature(at), stream(0, "start")
    if width:
        start = torch.randn(width, len(lam), generator=draw, dtype=torch.float64)
        got = solve.top(c.product, 10, start, generator=draw, tol=1e-7, spare=2)
    else:
        got = c.top(10, draw, tol=1e-7, spare=2)
    torch.testing.assert_close(got.values[:10], lam[:10], rtol=1e-8, atol=1e-8)
    eye = torch.eye(len(got.vectors), dtype=torch.float64)
    torch.testing.assert_close(got.vectors @ got.vectors.T, eye, rtol=0, atol=1e-12)
    if lam[9] > lam[10]:  # only then the projector on the top 10 is unique
        mine, truth = got.vectors[:10], q[:, :10]
        torch.testing.assert_close(mine.T @ mine, truth @ truth.T, rtol=0, atol=1e-6)


def test_more_eigenpairs_than_parameters_are_refused():
    f, at, _, _ = known([1.0, 2.0])
    with pytest.raises(ValueError, match="there are 2 eigenpairs, 3 were asked for"):
        f.curvature(at).top(3, stream(0, "start"))


def test_top_agrees_with_scipy_eigsh_and_is_repeatable():
    f, params = network(ConvNet(shape=(1, 8, 8), channels=(4, 4)))
    c = alone(f).curvature(params)
    got = c.top(10, stream(0, "start"), tol=1e-6)
    again = alone(f).curvature(params).top(10, stream(0, "start"), tol=1e-6)
    assert torch.equal(got.vectors, again.vectors)

    def product(v):
        return c.product(torch.from_numpy(np.ascontiguousarray(v).reshape(1, -1)))[0].numpy()

    d = size(params)
    theirs = sparse.eigsh(
        sparse.LinearOperator((d, d), product, dtype=np.float64), 10, which="LA", tol=1e-10
    )
    values = torch.from_numpy(theirs[0].copy()).flip(0)
    torch.testing.assert_close(got.values, values, rtol=1e-9, atol=1e-11)
    if values[8] / values[9] > 1.02:
        mine, truth = got.vectors[:9].T, torch.from_numpy(theirs[1][:, 1:].copy())
        assert float((mine.T @ truth).square().sum()) / 9 > 1 - 1e-6


def last_layer(f, params):
    """Return the eigenvalues of the last layer's Hessian under MSE, (2/C) (A'A/n) kron I_C."""
    n = f.batch.rows
    x = f.batch.inputs.flatten(1)
    a = torch.tanh(x @ params["fc1.weight"].T + params["fc1.bias"])
    a = torch.cat([a, a.new_ones(n, 1)], 1)
    classes = len(params["head.bias"])
    few = torch.linalg.eigvalsh(a.T @ a / n) * 2 / classes
    return few.repeat_interleave(classes).flip(0)


def test_top_finds_each_eigenvalue_of_the_last_layer_once_for_each_class():
    f, params = network()
    f = alone(f)
    names = ["head.weight", "head.bias"]
    truth = last_layer(f, params)
    part = {k: params[k] for k in names}
    dense = hessian_of(f, params, part)
    torch.testing.assert_close(torch.linalg.eigvalsh(dense).flip(0), truth, rtol=1e-9, atol=1e-11)
    c = f.curvature(params).within(names)
    got = c.top(25, stream(0, "start"), tol=1e-7)
    torch.testing.assert_close(got.values, truth[:25], rtol=1e-8, atol=1e-10)
    draw = stream(0, "start")  # a search from a single vector misses copies
    single = torch.randn(1, len(truth), generator=draw, dtype=torch.float64)
    one = solve.top(c.product, 12, single, generator=draw, tol=1e-3)
    assert float(one.values[9]) < 0.9 * float(truth[9])
    for dtype in ("float64", "float32"):  # a loose tolerance finds the copies too
        f, params = network(dtype=dtype)
        c = alone(f).curvature(params).within(names)
        for k in (5, 12):
            got = c.top(k, stream(0, "start"), tol=1e-3)
            torch.testing.assert_close(got.values, truth[:k], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_top_finds_all_ten_copies_of_the_eigenvalues_of_a_linear_classifier(dtype):
    """A linear classifier under MSE has every eigenvalue ten times, once for each class."""
    f, params = network(FC((1, 8, 8), (), 10), dtype=dtype)
    truth = torch.linalg.eigvalsh(hessian_of(alone(f), params, params)).flip(0)
    for seed in range(5):
        got = alone(f).curvature(params).top(11, stream(seed, "start"))
        torch.testing.assert_close(got.values, truth[:11].double(), rtol=1e-4, atol=0)


def test_the_search_for_copies_costs_at_most_two_products_when_there_are_none():
    f, at, _, _ = known([9.0, 7, 5, 3] + [0.1 * i for i in range(20)])
    c, pair = f.curvature(at), torch.randn(2, 24, generator=stream(0, "start")).double()
    c.top(3, stream(0, "start"))
    needed, before = c.products, f.curvature(at)
    solve.top(before.product, 3, pair, generator=stream(0, "start"))
    assert needed <= before.products + 2


def hessian_of(f, params, part):
    def loss(w):
        return f.rows(params | unflatten(w, part), f.batch).mean()

    return torch.autograd.functional.hessian(loss, flatten(part))


def test_the_hessian_of_a_block_is_a_diagonal_block_of_the_whole():
    f, params = network()
    f = alone(f)
    h, at = hessian(f, params), 0
    c = f.curvature(params)
    for names in grouped(params, "module").values():
        d = size({k: params[k] for k in names})
        v = torch.randn(2, d, generator=stream(0, "v"), dtype=torch.float64)
        mine = h[at : at + d, at : at + d]
        torch.testing.assert_close(c.within(names).product(v), v @ mine, rtol=1e-9, atol=1e-12)
        at += d


def test_follow_tracks_an_eigenspace_after_a_step():
    f, params = network(FC(shape=(1, 8, 8), hidden=(6,), outputs=10))
    f = alone(f)
    old = f.curvature(params).top(8, stream(0, "start"), tol=1e-6, spare=4)
    grad = f.value_and_grad(params)[1]
    moved = {k: p - 0.3 * grad[k] for k, p in params.items()}
    c = f.curvature(moved)
    truth = c.top(9, stream(1, "start"), tol=1e-8)
    before = c.products
    one = c.follow(old.vectors)
    assert c.products - before == len(old.vectors) == 12
    gap = int((truth.values[:-1] / truth.values[1:]).argmax()) + 1  # the clearest gap

    def overlap(a):
        return float((a[:gap] @ truth.vectors[:gap].T).square().sum()) / gap

    assert overlap(one.vectors) > overlap(old.vectors) and overlap(one.vectors) > 0.99
    two = c.follow(old.vectors, rounds=3)
    assert overlap(two.vectors) > 0.9999
    torch.testing.assert_close(two.values[:gap], truth.values[:gap], rtol=1e-3, atol=0)


def test_follow_finds_the_largest_and_not_the_most_negative_eigenvalues():
    for below in ([-50.0], [-10.0, -9, -8]):
        lam = torch.tensor([5.0, 4, 3, 2, 1] + [0.1] * 15 + below, dtype=torch.float64)
        start = torch.randn(4, len(lam), generator=stream(0, "start"), dtype=torch.float64)
        got = solve.follow(lambda v, h=lam: v * h, solve.orthonormal(start), 80)
        torch.testing.assert_close(got.values[:3], lam[:3], rtol=1e-3, atol=0)


def test_follow_keeps_the_number_of_vectors_for_a_matrix_of_low_rank():
    f, at, lam, q = known([4.0, 2.0] + [0.0] * 10)
    got = f.curvature(at).follow(torch.eye(12, dtype=torch.float64)[:5], rounds=3)
    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(got.vectors @ got.vectors.T, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.values[:2], lam[:2])


def test_trace_is_unbiased_with_its_standard_error_and_exact_for_a_diagonal():
    f, at, lam, _ = known([9.0, 7, 5] + [0.5] * 17)
    mean, error = f.curvature(at).trace(400, stream(0, "draws"))
    assert abs(mean - float(lam.sum())) <= 4 * error and 0 < error < 1
    own = torch.arange(5.0, dtype=torch.float64)
    got = stochastic.trace(lambda v: v * own, own, 2, stream(0, "draws"))
    assert got == (10.0, 0.0)


def test_density_has_the_moments_of_the_spectrum():
    f, at, lam, _ = known([9.0, 7, 5] + [0.5] * 17)
    nodes, weights = f.curvature(at).density(4, 1, stream(0, "draws"))
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(nodes, torch.tensor([0.5, 5, 7, 9], dtype=torch.float64))
    nodes, weights = f.curvature(at).density(4, 200, stream(1, "draws"))
    for power in (1, 2):  # the first two moments are unbiased
        mine = (weights * nodes**power).view(-1).sum()
        truth = (lam**power).mean()
        assert float(mine) == pytest.approx(float(truth), rel=0.1)


def test_a_quantized_network_is_refused_and_alternatives_are_named():
    slots = Slots(Identity(), Sign())
    f, params = network(MLP(quantizer=slots, shape=(1, 8, 8), hidden=(4,), outputs=10))
    with pytest.raises(ValueError, match="Hessian of any loss.*spectral_ste.*cdg.*smooth.*=fp"):
        f.curvature(params)
    with pytest.raises(ValueError, match="is quantized"):
        f.hvp(params, params)


def test_differences_of_gradients_equal_hessian_products_of_a_smooth_network():
    f, params = network()
    f = alone(f)
    c = f.curvature(params, gradient=lambda at: (f.value_and_grad(at)[1], 3.0), epsilon=1e-5)
    v = torch.randn(2, size(params), generator=stream(0, "v"), dtype=torch.float64)
    truth = f.curvature(params)
    torch.testing.assert_close(c.product(v), truth.product(v), rtol=1e-5, atol=1e-7)
    assert (c.products, c.evals) == (2, 12.0)
    names = ["head.weight", "head.bias"]
    got = c.within(names).top(3, stream(0, "start"), spare=4)
    assert float(got.values[0]) == pytest.approx(float(last_layer(f, params)[0]), rel=1e-3)


def test_differences_of_a_block_at_0_take_their_step_from_the_whole_point():
    f = from_function(lambda p: (p["w"] - 1).square().sum() + 3 * p["b"].square().sum())
    w = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for at in ({"w": w, "b": 0 * w}, {"w": 0 * w, "b": 0 * w}):
        ends = []

        def gradient(p, ends=ends):
            ends.append(p)
            return f.value_and_grad(p)[1], 3.0

        c = f.curvature(at, gradient=gradient, epsilon=0.1).within(["b"])
        torch.testing.assert_close(c.product(2 * torch.eye(2).double()), 12 * torch.eye(2).double())
        e = 0.1 * 5 / 2**0.5 if at["w"].any() else 0.1 / 2**0.5
        torch.testing.assert_close(ends[0]["b"], torch.tensor([e, 0], dtype=torch.float64))


def test_grouping_by_module_joins_each_norm_to_the_layer_before_it():
    p = component("model", "resnet32").build(stream(0, "init"))
    params = dict(p.named_parameters())
    sizes = [size({k: params[k] for k in names}) for names in grouped(params, "module").values()]
    assert len(sizes) == 17 and sizes[0] == 464 and sizes[-1] == 650 and sum(sizes) == 464_250
    assert len(grouped(params, "tensor")) == 99 and len(grouped(params, "network")) == 1
    fc = dict(component("model", "fc_tanh").build(stream(0, "init")).named_parameters())
    sizes = [size({k: fc[k] for k in names}) for names in grouped(fc, "module").values()]
    assert sizes == [614_600, 40_200, 2_010]


def test_grouping_by_patterns_refuses_parameters_that_no_pattern_covers():
    params = {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2)}
    assert grouped(params, {"x": ("b.*",), "rest": ("*",)}) == {
        "rest": ["a.weight"],
        "x": ["b.weight"],
    }
    with pytest.raises(ValueError, match="no parameter matches 'c.*'; there are: a.weight"):
        grouped(params, {"x": ("c.*",)})
    with pytest.raises(ValueError, match="'b.weight' is in no block; add e.g. rest"):
        grouped(params, {"x": ("a.*",)})
    with pytest.raises(ValueError, match="blocks.y: the blocks before it hold all that it matches"):
        grouped(params, {"x": ("*",), "y": ("a.*",)})


def test_hessian_products_agree_with_curvlinops():
    import curvlinops

    f, params = network()
    f = alone(f)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.Tanh(), torch.nn.Linear(4, 10)
    ).double()
    for own, mine in zip(net.parameters(), params.values(), strict=True):
        own.data.copy_(mine)
    theirs = curvlinops.HessianLinearOperator(
        net, torch.nn.MSELoss(), list(net.parameters()), [tuple(f.batch)]
    )
    v = torch.randn(size(params), generator=stream(0, "v"), dtype=torch.float64)
    torch.testing.assert_close(f.curvature(params).product(v[None])[0], theirs @ v)
