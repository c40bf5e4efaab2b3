"""Time of local_nes and of antithetic NES to equal error, for the same smoothed gradient."""

import statistics
import time
from typing import Any, Literal

import torch

from benchmarks.cdg import problem
from sa.estimator.local_nes import LocalNES
from sa.estimator.nes import NES
from sa.params import flatten, stream

Form = Literal["generic", "exact_tail"]


def _equal_error(name: str, dim: int, rows: int, sigma: float, form: Form) -> dict[str, Any]:
    """Return NES's (time x squared error) over local_nes's; both are unbiased, errors ~ 1/time."""
    p = problem(dim, rows)
    f = p.objective(p.batch(0))
    many = LocalNES(sigma=sigma, samples=32)
    truth = torch.stack(
        [flatten(many(f, p.params, {}, stream(1, "truth", i)).grad) for i in range(16)]
    )
    own_error = float(truth.var(0).sum()) / len(truth)
    truth = truth.mean(0)

    def cost(estimator: Any, seed: int) -> tuple[float, float]:
        began = time.thread_time()
        got = flatten(estimator(f, p.params, {}, stream(seed, "draw")).grad)
        spent = time.thread_time() - began
        return spent, float((got - truth).square().sum()) - own_error

    ours, theirs = LocalNES(sigma=sigma, samples=8, form=form), NES(sigma=sigma, samples=100)
    cost(ours, 0), cost(theirs, 0)
    slow, fast = [], []
    for seed in range(1, 6):
        slow.append(cost(theirs, seed))
        fast.append(cost(ours, seed))
    ratios = [a[0] * a[1] / (b[0] * b[1]) for a, b in zip(slow, fast, strict=True)]
    seconds = {
        "naive": statistics.median(t for t, _ in slow),
        "ours": statistics.median(t for t, _ in fast),
    }
    scale = float(truth.square().sum())
    errors = {
        "naive": statistics.median(e for _, e in slow) / scale,
        "ours": statistics.median(e for _, e in fast) / scale,
    }
    return {
        "name": name,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "against": f"antithetic NES, 100 pairs, time to equal error, sigma {sigma}, float64",
        "spread": [min(ratios), max(ratios)],
        "n": len(ratios),
        "settings": {
            "dim": dim, "rows": rows, "sigma": sigma, "form": form, "seconds": seconds,
            "relative_squared_error": errors,
        },
    }  # fmt: skip


def local_nes_d32() -> dict[str, Any]:
    return _equal_error("local_nes_d32", 32, 16_384, 0.1, "exact_tail")


def local_nes_d64() -> dict[str, Any]:
    return _equal_error("local_nes_d64", 64, 16_384, 0.1, "exact_tail")


def local_nes_generic_d32() -> dict[str, Any]:
    return _equal_error("local_nes_generic_d32", 32, 16_384, 0.1, "generic")
