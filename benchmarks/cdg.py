"""Exact coordinate differences of a fully connected sign network against the usual loop."""

from typing import Any

import torch

from benchmarks.measure import ratio
from sa.dataset.gaussian import Gaussian
from sa.model.toy_mlp import ToyMLP
from sa.objective.criterion import CRITERIA
from sa.objective.prepare import prepare
from sa.objective.problem import Problem
from sa.objective.task import Task
from sa.params import size
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Batch, Slots

ROWS = 16_384


def problem(dim: int, rows: int = ROWS) -> Problem:
    """Return a network of two hidden sign layers and 3 dim^2 weights, in float64."""
    model = ToyMLP(quantizer=Slots(Identity(), Sign()), dim=dim, hidden=2, out=dim)
    return prepare(Task(model=model, dataset=Gaussian(dim=dim, n=rows)), 0)


@torch.no_grad()
def loop(p: Problem, epsilon: float, most: int, batch: Batch | None = None) -> int:
    """Compute ``most`` differences in a plain loop: perturb one weight, run the network."""
    x, y = batch or p.data.train
    criterion = CRITERIA[p.forward.kind]
    done = 0
    for w in p.params.values():  # they share the network's memory
        flat, grad = w.view(-1), torch.empty(w.numel(), dtype=w.dtype)
        for i in range(w.numel()):
            saved = flat[i].item()
            flat[i] = saved + epsilon
            up = criterion(p.network(x), y).mean()
            flat[i] = saved - epsilon
            down = criterion(p.network(x), y).mean()
            flat[i] = saved
            grad[i] = (up - down) / (2 * epsilon)
            done += 1
            if done == most:
                return done
    return done


def _against_loop(name: str, dim: int, epsilon: float, most: int) -> dict[str, Any]:
    p = problem(dim)
    total = size(p.params)
    most = min(most, total)
    f = p.objective(p.batch(0))
    told = "" if most == total else f", naive extrapolated from {most} of {total} coordinates"
    return ratio(
        name,
        lambda: loop(p, epsilon, most),
        lambda: f.differences(p.params, [epsilon], "fast"),
        against=f"a loop over coordinates, eps {epsilon}, float64{told}",
        scale=total / most,
        settings={"dim": dim, "rows": ROWS, "epsilon": epsilon, "naive_coordinates": most},
    )


def cdg_d8() -> dict[str, Any]:
    return _against_loop("cdg_d8", 8, 0.1, 192)


def cdg_d16() -> dict[str, Any]:
    return _against_loop("cdg_d16", 16, 0.1, 768)


def cdg_d32() -> dict[str, Any]:
    return _against_loop("cdg_d32", 32, 0.1, 600)


def cdg_d64() -> dict[str, Any]:
    return _against_loop("cdg_d64", 64, 0.1, 300)


def cdg_d64_eps3() -> dict[str, Any]:
    return _against_loop("cdg_d64_eps3", 64, 1e-3, 300)


def cdg_eps_sweep() -> dict[str, Any]:
    p = problem(64)
    f = p.objective(p.batch(0))
    grid = torch.logspace(-3, 0, 8).tolist()
    return ratio(
        "cdg_eps_sweep",
        lambda: [f.differences(p.params, [e], "fast") for e in grid],
        lambda: f.differences(p.params, grid, "fast"),
        against="8 eps one by one, each on the fast path",
        settings={"dim": 64, "rows": ROWS, "epsilon": grid},
    )
