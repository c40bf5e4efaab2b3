"""Losses at many parameter points at once, against the speed of matrix products and a loop."""

from typing import Any

import torch

from benchmarks.cdg import problem
from benchmarks.measure import ratio
from sa.params import flatten, unflatten
from sa.types import Params

POINTS = 64


def _float32(dim: int, rows: int) -> tuple[Any, Params, Params]:
    p = problem(dim, rows)
    point = {k: v.float() for k, v in p.params.items()}
    w = flatten(point)
    draw = torch.randn(POINTS, len(w), generator=torch.Generator().manual_seed(0))
    return p.objective(p.batch(0).to(torch.float32)), point, unflatten(w + 0.1 * draw, point)


def _fraction(name: str, dim: int, rows: int) -> dict[str, Any]:
    """Return the time of POINTS forwards at the speed of 2048 x 2048 products, over our time."""
    f, point, stack = _float32(dim, rows)
    a = torch.randn(2048, 2048)
    work = POINTS * rows * 2 * sum(w.numel() for w in point.values())
    return ratio(
        name,
        lambda: a @ a,
        lambda: f.values(stack),
        against="one thread's rate of 2048 x 2048 products, float32 (a fraction of 1)",
        scale=work / (2 * 2048**3),
        settings={"dim": dim, "rows": rows, "points": POINTS},
    )


def nes_gemm_fraction_d32() -> dict[str, Any]:
    return _fraction("nes_gemm_fraction_d32", 32, 16_384)


def nes_gemm_fraction_d32_1k() -> dict[str, Any]:
    return _fraction("nes_gemm_fraction_d32_1k", 32, 1024)


def nes_gemm_fraction_d64() -> dict[str, Any]:
    return _fraction("nes_gemm_fraction_d64", 64, 16_384)


@torch.no_grad()
def lr_grid() -> dict[str, Any]:
    """Time the losses at fifty learning rates along one direction against a loop over them."""
    p = problem(32)
    f = p.objective(p.batch(0))
    w = flatten(p.params)
    d = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    lrs = torch.logspace(-3, 1, 50, dtype=w.dtype)
    points = unflatten(w - lrs[:, None] * d / d.norm(), p.params)
    x, y = p.data.train

    def loop() -> None:
        for i in range(len(lrs)):
            a = x
            for k, v in points.items():
                a = a @ v[i].T
                a = torch.where(a >= 0, 1.0, -1.0).double() if k != "head.weight" else a
            (a - y).square().mean()

    return ratio(
        "lr_grid",
        loop,
        lambda: f.values(points),
        against="a loop over 50 learning rates, float64",
        settings={"dim": 32, "rows": x.shape[0], "points": 50},
    )
