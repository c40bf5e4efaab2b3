"""Bias and variance of an estimator, from replicates at one point."""

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from scipy.special import stdtrit
from torch import Tensor

from sa.analysis._line import cosine, unit
from sa.analysis._view import numbers
from sa.objective.objective import Objective
from sa.params import flatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class BiasVariance:
    """R replicates g_r of an estimator, compared with a reference g* that has no variance.

    - ``bias2`` |mean g - g*|^2 - V/R, unbiased for the squared bias, and ``variance`` V, the trace
      of the covariance; both are divided by |g*|^2
    - ``snr``: the squared mean, less V/R, over V
    - ``z_rms``, ``z_max`` and ``z_outside`` of z = (mean - g*) sqrt(R)/std of each coordinate. For
      normal and unbiased replicates, z has Student's t distribution with R - 1 degrees of freedom.
      ``z_outside`` is the share beyond its two-sided 5 % quantile, so 5 % then, and ``z_rms`` is
      about sqrt((R - 1)/(R - 3))
    - ``reliability`` r, the cosine of the means of two halves, and ``reliability_mean`` sqrt(2 r/(1
      + r)), the cosine of the whole mean with its limit. A high value without descent shows a wrong
      target; a low value shows noise
    - ``cosine`` and ``scale`` of one replicate, as means; ``_ci95`` is the half-width of their 95 %
      interval by Student's t distribution
    - ``evals`` and ``seconds`` of one replicate

    Replicates that are not finite are left out: ``nonfinite`` counts them, and R counts the others.
    ``diverged`` is 1 if fewer than two are left.

    Args:
        estimator: estimator that the run studies; each replicate starts from the state after the
            run's own call.
        reference: estimator of the truth, with the same target. If the targets differ, the bias
            contains their difference, and ``across`` is 1.
        replicates: R, independent estimates, 4 or more.

    """

    estimator: Estimator
    reference: Estimator
    replicates: Annotated[int, Ge(4)] = 32

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``bias_variance/``."""
        numbers(params)
        truth = flatten(objective.reference(self.reference, params, at)).double()
        began, evals, draws = time.perf_counter(), 0.0, []
        state = estimate.state
        for _ in range(self.replicates):
            one = self.estimator(objective, params, state, generator, at)
            draws.append(flatten(one.grad).double())
            evals += one.evals
        seconds = time.perf_counter() - began
        sound = [d for d in draws if d.isfinite().all()]
        enough = len(sound) > 1
        out = split(torch.stack(sound if enough else draws), truth)
        left_out = len(draws) - len(sound)
        out |= {"nonfinite": float(left_out), "diverged": float(not enough)}
        out["across"] = float(self.estimator.target != self.reference.target)
        out |= {"evals": evals / self.replicates, "seconds": seconds / self.replicates}
        return {f"bias_variance/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return bias, variance and reliability in words."""
        if "bias_variance/bias2" not in result:
            return []
        across = " (of another target)" if result["bias_variance/across"] else ""
        bias, variance, sure = (
            number(result[f"bias_variance/{k}"]) for k in ("bias2", "variance", "reliability")
        )
        text = f"bias^2 {bias}{across}, variance {variance} of |g*|^2; reliability {sure}"
        return [("replicates", text)]


def split(draws: Tensor, truth: Tensor) -> Numbers:
    """Return the numbers of `BiasVariance` of replicates (R, D) and the truth (D,)."""
    count, mean, norm = len(draws), draws.mean(0), float(truth @ truth)
    variance, reach = float(draws.var(0).sum()), float(stdtrit(count - 1, 0.975))
    halves = draws[0::2].mean(0), draws[1::2].mean(0)
    r = cosine(*halves)
    error = draws.std(0) / math.sqrt(count)
    # A coordinate that varies by rounding alone has no z.
    tiny = 1e-12 * float(draws.abs().max())
    z = ((mean - truth) / error)[error > tiny]
    cosines = (unit(truth) * draws / draws.norm(dim=1, keepdim=True).clamp(min=1e-300)).sum(1)
    scales = draws @ truth / norm if norm else torch.full((count,), math.nan)
    out: Numbers = {
        "bias2": (float((mean - truth) @ (mean - truth)) - variance / count) / norm,
        "variance": variance / norm,
        "snr": (float(mean @ mean) - variance / count) / variance if variance else math.nan,
        "reliability": r,
        "reliability_mean": 0.0 if r <= 0 else math.sqrt(2 * r / (1 + r)),
    } if norm else {}  # fmt: skip
    if len(z):
        out |= {
            "z_rms": float(z.square().mean().sqrt()),
            "z_max": float(z.abs().max()),
            "z_outside": float((z.abs() > reach).double().mean()),
        }
    for name, values in (("cosine", cosines), ("scale", scales)):
        out[name] = float(values.mean())
        out[f"{name}_ci95"] = reach * float(values.std()) / math.sqrt(count)
    return out
