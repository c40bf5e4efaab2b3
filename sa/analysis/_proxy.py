"""Proxies that predict the rise of the loss when layers move, and their rank correlations."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sa import surrogate
from sa.objective.objective import Objective
from sa.table import ranking
from sa.types import Numbers, Params


def compared(
    moved: dict[str, list[Tensor]], rises: np.ndarray, grad: Params, traces: dict[str, float]
) -> Numbers:
    """Return proxies of the rises of the loss, and their rank correlations with the rises.

    The proxies are ``gradient`` g.d and ``error`` |d|^2; with traces also ``curvature`` tr(H_ll)/(2
    n_l) |d|^2 and ``taylor``, the sum of gradient and curvature. The keys are those of
    `SensitivityBits`.

    Args:
        moved: layer -> its displacement d at each bit width.
        rises: (layers, widths), the measured rises of the loss.
        grad: gradient g of the loss.
        traces: layer -> trace of its block of the Hessian; may be empty.

    """

    def grid(f: Callable[[str, Tensor], float]) -> np.ndarray:
        return np.array([[f(n, d) for d in each] for n, each in moved.items()])

    proxies = {
        "gradient": grid(lambda n, d: float((grad[n] * d).sum())),
        "error": grid(lambda n, d: float(d.square().sum())),
    }
    out: Numbers = {f"{n}/trace": t for n, t in traces.items()}
    if traces:
        proxies["curvature"] = grid(lambda n, d: traces[n] / 2 * float(d.square().mean()))
        proxies["taylor"] = proxies["gradient"] + proxies["curvature"]
    truth = [pd.Series(column) for column in (rises.ravel(), *rises.T)]
    for name, guess in proxies.items():
        out |= {f"{n}/{name}": row.tolist() for n, row in zip(moved, guess, strict=True)}
        columns = [pd.Series(column) for column in (guess.ravel(), *guess.T)]
        whole, *each = map(ranking.kendall, columns, truth)
        out[f"kendall/{name}"] = whole
        out[f"spearman/{name}"] = ranking.spearman(columns[0], truth[0])
        sound = [t for t in each if not math.isnan(t)]
        out[f"kendall_layers/{name}"] = sum(sound) / len(sound) if sound else math.nan
    return out


def traces(
    objective: Objective, params: Params, names: list[str], probes: int, generator: torch.Generator
) -> dict[str, float]:
    """Return tr(H_ll) of every layer, the mean of v.Hv over signs v (Hutchinson 1990).

    Without probes the result is empty. Hv = [g(w + h v) - g(w - h v)]/(2 h) with true gradients, so
    no straight-through slope is differentiated twice. One layer moves at a time. A layer before a
    step would flip states, and a difference would count their jumps as curvature.
    """
    out = dict.fromkeys(names if probes else [], 0.0)
    for name in out:
        w = params[name]
        h = torch.finfo(w.dtype).eps ** (1 / 3)
        for _ in range(probes):
            v = 2 * torch.randint(2, w.shape, generator=generator, device=w.device).to(w.dtype) - 1
            with surrogate.exact_gradients():
                up, down = (
                    objective.value_and_grad(params | {name: w + s * h * v})[1][name]
                    for s in (1, -1)
                )
            out[name] += float((v * (up - down)).double().sum()) / (2 * h * probes)
    return out
