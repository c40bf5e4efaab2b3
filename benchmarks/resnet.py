"""Exact coordinate differences of one convolution of a thin XNOR-ResNet-18 on digits."""

from typing import Any, Literal

import torch

from benchmarks.measure import ratio
from sa.dataset.digits import Digits
from sa.model.xnor_resnet18 import XnorResnet18
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.objective.prepare import prepare
from sa.objective.problem import Problem
from sa.objective.task import Task
from sa.params import size
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.quantizer.xnor import Xnor
from sa.types import Slots

Side = Literal[8, 16, 32]


def _network(layer: int, side: Side, binary: bool = False) -> Problem:
    """Return the problem of width 8 at its random start, with statistics of the training rows."""
    slots = Slots(Xnor() if binary else Identity(), Sign())
    model = XnorResnet18(quantizer=slots, shape=(1, side, side))
    task = Task(
        model=model,
        dataset=Digits(size=side),
        moving=(layer,),
        numerics=Numerics(batchnorm="running"),
    )
    p = prepare(task, 0)
    for name, seen in p.evaluation.recalibrate(p.params).items():
        p.buffers[name].copy_(seen)
    return p


def _difference(f: Objective, p: Problem, epsilon: float, at: int) -> float:
    """Compute one coordinate by brute force: two forwards in blocks of rows that fit in memory."""
    ((name, w),) = p.params.items()
    ends = []
    for sign in (1, -1):
        v = w.flatten().clone()
        v[at] += sign * epsilon
        ends.append(float(f.value({name: v.view(w.shape)})))
    return (ends[0] - ends[1]) / (2 * epsilon)


def _apart(f: Objective, p: Problem, epsilon: float, count: int) -> float:
    """Return the largest error at ``count`` coordinates, relative to the largest entry."""
    (grad,) = f.differences(p.params, [epsilon], "fast").grads[0].values()
    some = torch.linspace(0, grad.numel() - 1, count).long().tolist()
    off = [abs(_difference(f, p, epsilon, i) - float(grad.flatten()[i])) for i in some]
    return max(off) / float(grad.abs().max())


def _against_loop(
    name: str, layer: int, side: Side, epsilon: float, binary: bool = False, rows: int = 1437
) -> dict[str, Any]:
    p = _network(layer, side, binary)
    f, total = p.objective(p.batch(0).part(0, rows)), size(p.params)
    return ratio(
        name,
        lambda: _difference(f, p, epsilon, 0),
        lambda: f.differences(p.params, [epsilon], "fast"),
        against=f"two forwards a coordinate, eps {epsilon}, float64, naive extrapolated from 1 "
        f"of {total} coordinates",
        scale=total,
        settings={
            "layer": layer, "side": side, "rows": rows, "epsilon": epsilon,
            "weights": "xnor" if binary else "full precision",
            "apart": _apart(f, p, epsilon, 4),
        },
    )  # fmt: skip


def cdg_resnet() -> dict[str, Any]:
    return _against_loop("cdg_resnet", -2, 32, 1e-2)


def cdg_resnet_wide() -> dict[str, Any]:
    return _against_loop("cdg_resnet_wide", -2, 32, 0.1)


def cdg_resnet_binary() -> dict[str, Any]:
    return _against_loop("cdg_resnet_binary", -2, 32, 1e-2, True)


def cdg_resnet_first() -> dict[str, Any]:
    return _against_loop("cdg_resnet_first", 1, 8, 1e-2)


def cdg_resnet_inner() -> dict[str, Any]:
    return _against_loop("cdg_resnet_inner", 8, 8, 1e-2, rows=256)
