"""Hessian products, leading eigenpairs from a random start and from earlier ones, layers' spectra.

The other side is the usual code: scipy's eigsh (largest magnitude, tol 0) on products that build a
new graph for every batch of a DataLoader. The problems have a gap after the tenth eigenvalue
(digits) or none (white noise of a hundred classes); 32 x 32 x 3 inputs, squared error, float32.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import ratio
from sa.curvature.solve import Pairs
from sa.dataset.digits import Digits
from sa.estimator.spectral import Spectral
from sa.model.convnet import ConvNet
from sa.model.fc import FC
from sa.objective.criterion import mse
from sa.objective.function import RowFunction
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.params import flatten, grouped, size, stream, unflatten
from sa.types import PROBE, Batch, Estimate, Moment, Params, State

K, LR, MEMORY = 10, 0.05, 2 << 30
USUAL = "eigsh LM tol 0, DataLoader of 500 rows, graphs rebuilt"


def _problem(kind: str, rows: int, gap: bool, steps: int = 0) -> tuple[Any, Objective, Params]:
    """Return the network, its loss and the point after so many steps of gradient descent."""
    draw = stream(0, "data")
    classes = 10 if gap else 100  # as many eigenvalues stand out
    x, y = torch.randn(rows, 3, 32, 32, generator=draw), torch.arange(rows) % classes
    if gap:
        data = Digits(size=32).load(stream(0, "digits")).train
        at = torch.arange(rows) % data.rows
        x, y = data.inputs[at].float() + 0.3 * x, data.targets[at]
    model: Any = {"fc": FC(outputs=classes), "cnn": ConvNet()}[kind]
    network = model.build(stream(0, "init")).float()
    params = {k: p.detach() for k, p in network.named_parameters()}

    def each(at: Params, part: Batch) -> Tensor:
        return mse(functional_call(network, at, (part.inputs,)), part.targets)

    width = {"fc": 7_000, "cnn": 180_000}[kind]
    batch = Batch(x, torch.eye(classes)[y])
    f = Objective(RowFunction(each, width=width, numerics=Numerics(memory=MEMORY)), batch)
    for _ in range(steps):
        params = _stepped(f, params)
    return network, f, params


def _stepped(f: Objective, params: Params) -> Params:
    _, grad = f.value_and_grad(params)
    return {k: p - LR * grad[k] for k, p in params.items()}


def _usual(network: Any, f: Objective, params: Params) -> Callable[[np.ndarray], np.ndarray]:
    """Return the usual code of one Hessian product."""
    loader = DataLoader(TensorDataset(*f.batch), batch_size=500)
    for name, p in network.named_parameters():
        p.data.copy_(params[name])
    wrt, loss = list(network.parameters()), torch.nn.MSELoss()

    def product(v: np.ndarray) -> np.ndarray:
        parts = unflatten(torch.from_numpy(np.asarray(v, np.float32).ravel()), params)
        total = torch.zeros(size(params))
        for x, y in loader:
            grads = torch.autograd.grad(loss(network(x), y), wrt, create_graph=True)
            dot = sum((g * parts[k]).sum() for g, k in zip(grads, params, strict=True))
            got = torch.autograd.grad(dot, wrt)  # type: ignore[arg-type]
            total += torch.cat([g.flatten() for g in got]) * len(x) / f.batch.rows
        return total.numpy()

    return product


def _eigsh(product: Callable[[np.ndarray], np.ndarray], d: int, which: str, tol: float) -> Pairs:
    start = torch.randn(d, generator=stream(0, "start")).numpy()
    operator = LinearOperator((d, d), product, dtype=np.float32)
    values, vectors = eigsh(operator, K, which=which, tol=tol, v0=start)
    order = np.argsort(-values)
    got = torch.from_numpy(values[order].astype(np.float64))
    return Pairs(got, torch.from_numpy(vectors.T[order].copy()), torch.zeros(K))


def _apart(mine: Pairs, truth: Pairs) -> dict[str, float]:
    """Return the largest relative error of the eigenvalues, and the overlap of the spaces."""
    error = ((mine.values[:K] - truth.values[:K]).abs() / truth.values[0]).max()
    overlap = (mine.vectors[:K] @ truth.vectors[:K].T).double().square().sum() / K
    return {"error": float(error), "overlap": float(overlap)}


def _product(name: str, kind: str, rows: int) -> dict[str, Any]:
    network, f, params = _problem(kind, rows, gap=True)
    usual, c = _usual(network, f, params), f.curvature(params)
    v = torch.randn(1, size(params), generator=stream(0, "v"))
    mine, theirs = c.product(v)[0], torch.from_numpy(usual(v.numpy()))
    told = {"kind": kind, "rows": rows, "difference": float((mine - theirs).norm() / theirs.norm())}
    return ratio(
        name, lambda: usual(v.numpy()), lambda: c.product(v), against="graph rebuilt, DataLoader",
        settings=told, pairs=9,
    )  # fmt: skip


def hessian_product() -> dict[str, Any]:
    return _product("hessian_product", "fc", 5000)


def hessian_product_cnn() -> dict[str, Any]:
    return _product("hessian_product_cnn", "cnn", 1000)


def _cold(name: str, kind: str, rows: int, gap: bool, part: int | None = None) -> dict[str, Any]:
    """Time the leading eigenpairs from a random start against eigsh on the usual products.

    With ``part``, only so many usual products are timed, and extrapolated to those of eigsh.
    """
    network, f, params = _problem(kind, rows, gap)
    usual, d = _usual(network, f, params), size(params)
    products, theirs = [], []

    def ours() -> Pairs:
        c = f.curvature(params)
        got = c.top(K, stream(0, "start"))
        products.append(c.products)
        return got

    def counted(v: np.ndarray) -> np.ndarray:
        theirs.append(1)
        return usual(v)

    truth = f.curvature(params).top(K + 1, stream(1, "start"), tol=1e-6)
    told = _apart(ours(), truth) | {"gap": float(truth.values[K - 1] / truth.values[K])}
    told["error_of_eigsh"] = _apart(_eigsh(counted, d, "LM", 0), truth)["error"]
    v = np.ones(d, np.float32)
    some = range(part or 0)
    return ratio(
        name,
        lambda: [usual(v) for _ in some] if part else _eigsh(usual, d, "LM", 0),
        ours,
        against=USUAL + (f", from {part} of {len(theirs)} products" if part else ""),
        scale=len(theirs) / part if part else 1.0,
        settings={
            "kind": kind, "rows": rows, "k": K, "products": products[0],
            "products_of_eigsh": len(theirs),
        } | told,
    )  # fmt: skip


def hessian_cold() -> dict[str, Any]:
    return _cold("hessian_cold", "fc", 5000, gap=True)


def hessian_cold_flat() -> dict[str, Any]:
    return _cold("hessian_cold_flat", "fc", 5000, gap=False, part=20)


def hessian_cold_cnn() -> dict[str, Any]:
    return _cold("hessian_cold_cnn", "cnn", 1000, gap=True, part=5)


def _refresh(name: str, gap: bool, usual: bool) -> dict[str, Any]:
    """Time the second refresh of the eigenpairs, 50 steps after the first, against eigsh at tol 0.

    With ``usual``, eigsh uses the usual products: four of them are timed, and extrapolated to the
    number that eigsh needed. Otherwise it uses ours.
    """
    network, f, params = _problem("fc", 5000, gap, steps=50)
    space = f.curvature(params).top(K + 1, stream(0, "start"), spare=3).vectors
    for last in (False, True):
        for _ in range(50):
            params = _stepped(f, params)
        if not last:
            space = f.curvature(params).follow(space).vectors
    slow, fast, d = _usual(network, f, params), f.curvature(params), size(params)
    count = []

    def product(v: np.ndarray) -> np.ndarray:
        count.append(1)
        return fast.product(torch.from_numpy(np.asarray(v, np.float32).reshape(1, -1)))[0].numpy()

    def ours() -> Pairs:
        return f.curvature(params).follow(space)

    truth = f.curvature(params).top(K + 1, stream(1, "start"), tol=1e-6)
    told = _apart(ours(), truth) | {"gap": float(truth.values[K - 1] / truth.values[K])}
    told["error_of_two_rounds"] = _apart(f.curvature(params).follow(space, 2), truth)["error"]
    _eigsh(product, d, "LM" if usual else "LA", 0)
    needed, v = len(count), np.ones(d, np.float32)
    part = 4 if usual else needed
    return ratio(
        name,
        (lambda: [slow(v) for _ in range(part)]) if usual else lambda: _eigsh(product, d, "LA", 0),
        ours,
        against=f"{USUAL}, from {part} of {needed} products"
        if usual
        else "eigsh LA tol 0 on the same kept graph",
        scale=needed / part,
        settings={
            "kind": "fc", "rows": 5000, "k": K, "products": len(space), "products_of_eigsh": needed,
        } | told,
    )  # fmt: skip


def hessian_refresh() -> dict[str, Any]:
    return _refresh("hessian_refresh", gap=True, usual=True)


def hessian_refresh_flat() -> dict[str, Any]:
    return _refresh("hessian_refresh_flat", gap=False, usual=True)


def hessian_refresh_engine() -> dict[str, Any]:
    return _refresh("hessian_refresh_engine", gap=True, usual=False)


def _blocks(name: str, kind: str, rows: int) -> dict[str, Any]:
    """Time the global top 10 against those of the layers; measure what the layers hold of it."""
    _, f, params = _problem(kind, rows, gap=True)
    groups = grouped(params, "module")

    def whole() -> Pairs:
        return f.curvature(params).top(K, stream(0, "start"))

    def each() -> dict[str, Pairs]:
        c = f.curvature(params)
        return {b: c.within(names).top(K, stream(0, "start")) for b, names in groups.items()}

    held = torch.zeros(K)
    vectors = [unflatten(v, params) for v in whole().vectors[:K]]
    for block, got in each().items():
        part = torch.stack([flatten({k: v[k] for k in groups[block]}) for v in vectors])
        held += (part @ got.vectors[:K].T).square().sum(1)
    told = {"held_least": float(held.min()), "held_most": float(held.max())}
    return ratio(
        name, whole, each, against="one global top 10 on the same engine",
        settings={"kind": kind, "rows": rows, "k": K} | told,
    )  # fmt: skip


def hessian_blocks() -> dict[str, Any]:
    return _blocks("hessian_blocks", "fc", 5000)


def hessian_blocks_cnn() -> dict[str, Any]:
    return _blocks("hessian_blocks_cnn", "cnn", 1000)


def hessian_projector() -> dict[str, Any]:
    """Time a filtered step between refreshes, without its gradient, against a full gradient."""
    _, f, params = _problem("fc", 5000, gap=True)
    fixed = Estimate(*f.value_and_grad(params), 3.0)

    class Known:
        target: ClassVar[str] = "true"

        def init(self, params: Params) -> State:
            return {}

        def __call__(
            self, objective: Any, params: Params, state: State, generator: torch.Generator,
            at: Moment = PROBE,
        ) -> Estimate:  # fmt: skip
            return fixed

    own = Spectral(base=Known(), safeguard=None, refresh=10**6, lr=LR)
    state = own(f, params, own.init(params), stream(0, "a")).state
    return ratio(
        "hessian_projector", lambda: f.value_and_grad(params),
        lambda: own(f, params, state, stream(0, "b")), against="a gradient of 5,000 rows",
        settings={"kind": "fc", "rows": 5000, "k": K}, pairs=9,
    )  # fmt: skip
