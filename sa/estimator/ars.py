"""Augmented random search: the best directions, scaled by the spread of their losses."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _scale
from sa.estimator._base import Laws, Method
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class ARS(Method):
    """(1/(b s)) sum_b (f(w + sigma e) - f(w - sigma e)) e over the best pairs (Mania et al. 2018).

    The best b of N pairs have the smallest min(f(w + sigma e), f(w - sigma e)); s is the standard
    deviation of their 2b losses. This is a step direction, not an estimate of a gradient (target
    ``none``): multiplying the loss by a factor changes nothing.

    On a linear loss let b = p N, q the normal quantile of 1 - p/2, and h = 1 + 2 q phi(q)/p, which
    is E[z^2 | |z| > q]. Then the length along any g is 2 sqrt(h), and the expected cosine is
    sqrt(b h/(b h + D - 1)). b = N is best, but half the pairs keep 93 % of b h.

    Paper: Mania, Guy & Recht, "Simple random search of static linear policies", NeurIPS 2018.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.ARS(samples=4)(bowl, seed=0).evals
    9.0

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights; nu in Mania
            et al. 2018.
        samples: N, antithetic pairs a call. A pair with a loss that is not finite is left out and
            counted in ``nonfinite``.
        top: p, the share of the pairs to use, the best ones; in (0, 1].

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = {
        "unbiased": "it is a step direction, whose length is not that of the gradient",
        "scale": "it divides by the spread of the losses",
    }
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    top: Annotated[float, Gt(0), Le(1)] = 0.5

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals. Only one chunk of directions is in memory."""
        _scale.require("sigma", self.sigma, params, at)
        dim, w, n = size(params), flatten(params), self.samples

        def best_of(pairs: int) -> int:  # rounded first: 0.07 * 100 is a little above 7
            return math.ceil(round(self.top * pairs, 9))

        def measure(e: Tensor) -> Tensor:
            points = (w + self.sigma * e, w - self.sigma * e)
            return torch.stack([_directions.losses(objective, params, x) for x in points])

        def weigh(losses: Tensor) -> Tensor:  # (2, N)
            ok = losses.isfinite().all(0)
            b = best_of(int(ok.sum()))
            if not b:
                return torch.full_like(losses[0], math.nan)
            best = torch.where(ok, losses.amin(0), math.inf).argsort(stable=True)[:b]
            spread = losses[:, best].std(correction=0)
            out = torch.zeros_like(losses[0])
            if spread > 0:
                out[best] = (losses[0] - losses[1])[best] / (b * spread)
            return out

        draw = _directions.gaussian
        total, losses = _directions.weighed(draw, n, w, generator, measure, weigh)
        h, ok = best_of(n) * _tail_square(best_of(n) / n), losses.isfinite().all(0)
        sound = int(ok.sum())
        info: Numbers = {
            "flat": int(((losses[0] == losses[1]) & ok).sum()) / max(1, sound),
            "cosine_expected": math.sqrt(h / max(h, h + dim - 1)),
        }
        info |= _finite.counted(n - sound)
        grad = unflatten(total, params)
        return Estimate(objective.value(params), grad, 2.0 * n + 1, info=info)


def _tail_square(p: float) -> float:
    """Return E[z^2 | |z| > q] of a standard normal z, with q such that P(|z| > q) = p."""
    q = float(torch.special.ndtri(torch.tensor(1 - p / 2, dtype=torch.float64)))
    return 1 + 2 * q * math.exp(-q * q / 2) / math.sqrt(2 * math.pi) / p
