"""One antithetic NES gradient by sa and by other libraries, each with its fastest batching."""

import logging
import os
import time
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.cdg import problem
from benchmarks.measure import ratio
from sa.estimator.nes import NES
from sa.params import flatten, stream, unflatten
from sa.types import Params

DIM, ROWS, PAIRS, SIGMA = 32, 1024, 128, 0.1


def _ours() -> tuple[Any, Any, Params]:
    p = problem(DIM, ROWS)
    point = {k: v.float() for k, v in p.params.items()}
    f = p.objective(p.batch(0).to(torch.float32))
    nes = NES(sigma=SIGMA, samples=PAIRS)
    return lambda: nes(f, point, {}, stream(0, "bench")), f, point


def _best(acts: dict[str, Any]) -> tuple[str, Any]:
    """Return the fastest of several ways to call a library for the same result, after a warm-up."""
    spent = {}
    for name, act in acts.items():
        act()
        began = time.process_time()
        act()
        spent[name] = time.process_time() - began
    name = min(spent, key=spent.__getitem__)
    return name, acts[name]


def _compare(name: str, peer: str, acts: dict[str, Any], ours: Any) -> dict[str, Any]:
    way, act = _best(acts)
    settings = {"dim": DIM, "rows": ROWS, "pairs": PAIRS, "batching": way, "tried": list(acts)}
    return ratio(
        name, act, ours, against=f"{peer}, float32, {way}", settings=settings,
        clock=time.process_time,
    )  # fmt: skip


def nes_vs_evotorch() -> dict[str, Any]:
    """Time PGPE with a fixed spread, which is antithetic NES; its loss uses torch.func.vmap."""
    import evotorch
    from evotorch.algorithms import PGPE

    ours, f, point = _ours()
    x, y = f.batch

    def one(w: torch.Tensor) -> torch.Tensor:
        a = x
        *hidden, last = unflatten(w, point).values()
        for v in hidden:
            a = torch.where(a @ v.T >= 0, 1.0, -1.0)
        return (a @ last.T - y).square().mean()

    logging.getLogger("evotorch").setLevel(logging.WARNING)

    def searcher(chunk: int | None) -> Any:
        task = evotorch.Problem(
            "min", torch.vmap(one, chunk_size=chunk), vectorized=True, dtype=torch.float32,
            solution_length=flatten(point).numel(), initial_bounds=(-0.1, 0.1), seed=0,
        )  # fmt: skip
        return PGPE(
            task, popsize=2 * PAIRS, center_learning_rate=1e-3, stdev_learning_rate=0.0,
            stdev_init=SIGMA, center_init=flatten(point), optimizer="sgd", ranking_method=None,
        )  # fmt: skip

    acts = {f"vmap in chunks of {c or 'all'}": searcher(c).step for c in (None, 64, 16, 4)}
    return _compare("nes_vs_evotorch", f"evotorch {version('evotorch')}", acts, ours)


def nes_vs_evosax() -> dict[str, Any]:
    """Time Open_ES with a fixed spread and a compiled step; data are arguments, not constants."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax.numpy as jnp
    import optax
    from evosax.algorithms import Open_ES

    ours, f, point = _ours()
    x, y = (jnp.asarray(v.numpy()) for v in f.batch)
    start = {k: jnp.asarray(v.numpy()) for k, v in point.items()}

    def one(w: Any, x: Any, y: Any) -> Any:
        a = x
        *hidden, last = w.values()
        for v in hidden:
            a = jnp.where(a @ v.T >= 0, 1.0, -1.0)
        return jnp.square(a @ last.T - y).mean()

    es = Open_ES(
        population_size=2 * PAIRS, solution=start, optimizer=optax.sgd(1e-3),
        std_schedule=optax.constant_schedule(SIGMA),
    )  # fmt: skip
    params = es.default_params
    state = es.init(jax.random.key(0), start, params)

    def step(chunk: int | None) -> Any:
        def whole(key: Any, state: Any, x: Any, y: Any) -> Any:
            population, state = es.ask(key, state, params)
            if chunk is None:
                losses = jax.vmap(one, (0, None, None))(population, x, y)
            else:
                losses = jax.lax.map(lambda w: one(w, x, y), population, batch_size=chunk)
            return es.tell(key, population, losses, state, params)[0]

        run = jax.jit(whole)
        return lambda: jax.block_until_ready(run(jax.random.key(1), state, x, y))

    acts = {f"vmap in chunks of {c or 'all'}": step(c) for c in (None, 64, 16, 4)}
    return _compare("nes_vs_evosax", f"evosax {version('evosax')}", acts, ours)
