"""Augmented random search: the most telling directions, in units of their own spread."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _scale
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class ARS:
    """(1/(b s)) sum_b (f(w + sigma e) - f(w - sigma e)) e over the best pairs (Mania et al. 2018).

    Best: of the smallest min(f+, f-), as rewards are ranked by the larger of the two. s: standard
    deviation of these 2b losses. A step direction, not an estimate of a gradient (target ``none``):
    of degree 0 in the loss, which s measures. On a linear loss with N directions, b = p N, q the
    normal quantile of 1 - p/2 and h = 1 + 2 q phi(q)/p, which is E z^2 where |z| > q, the length
    along any g is 2 sqrt(h) and the expected cosine sqrt(b h/(b h + D - 1)); b = N is best, but
    half the pairs keep 93 % of b h.

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights; nu in the
            paper.
        samples: N, antithetic pairs a call. A pair with a loss that is not finite is left out, and
            counted in ``nonfinite``.
        top: p, the share of the pairs that is kept, the best ones.

    """

    target: ClassVar[str] = "none"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    top: Annotated[float, Gt(0), Le(1)] = 0.5

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2N + 1 evals. Memory holds one block of directions."""
        _scale.require("sigma", self.sigma, params, at)
        dim, w, n = size(params), flatten(params), self.samples

        def most(pairs: int) -> int:  # rounded first: 0.07 * 100 is a little above 7
            return math.ceil(round(self.top * pairs, 9))

        def measure(e: Tensor) -> Tensor:
            ends = (w + self.sigma * e, w - self.sigma * e)
            return torch.stack([_directions.losses(objective, params, x) for x in ends])

        def weigh(seen: Tensor) -> Tensor:  # (2, N)
            ok = seen.isfinite().all(0)
            b = most(int(ok.sum()))
            if not b:
                return torch.full_like(seen[0], math.nan)
            best = torch.where(ok, seen.amin(0), math.inf).argsort(stable=True)[:b]
            spread = seen[:, best].std(correction=0)
            out = torch.zeros_like(seen[0])
            if spread > 0:
                out[best] = (seen[0] - seen[1])[best] / (b * spread)
            return out

        draw = _directions.gaussian
        total, seen = _directions.weighed(draw, n, w, generator, measure, weigh)
        h, ok = most(n) * _kept(most(n) / n), seen.isfinite().all(0)
        sound = int(ok.sum())
        info: Numbers = {
            "flat": int(((seen[0] == seen[1]) & ok).sum()) / max(1, sound),
            "cosine_expected": math.sqrt(h / max(h, h + dim - 1)),
        }
        info |= _finite.counted(n - sound)
        grad = unflatten(total, params)
        return Estimate(objective.value(params), grad, 2.0 * n + 1, info=info)


def _kept(p: float) -> float:
    """E[z^2 | |z| > q] of a normal z, q such that the share p is beyond it."""
    q = float(torch.special.ndtri(torch.tensor(1 - p / 2, dtype=torch.float64)))
    return 1 + 2 * q * math.exp(-q * q / 2) / math.sqrt(2 * math.pi) / p
