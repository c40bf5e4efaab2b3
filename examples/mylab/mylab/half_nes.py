"""NES whose pairs of points are drawn for half of the coordinates at a time."""

from dataclasses import dataclass
from typing import Any

import torch

from sa.params import flatten, unflatten
from sa.types import PROBE, Estimate, Moment, Params, State


@dataclass(frozen=True)
class HalfNES:
    """Antithetic NES with normal directions that move a random half of the coordinates.

    The mean over pairs of (f(w + sigma m e) - f(w - sigma m e)) m e / sigma, m 1 with probability
    1/2, else 0. It is the gradient of the loss that is smoothed in the same way.

    Args:
        sigma: standard deviation of the steps, in the units of the weights, > 0.
        samples: pairs a call, > 0.

    """

    sigma: float = 0.1
    samples: int = 100

    target = "gaussian"

    def init(self, params: Params) -> State:
        """Return the state before the first call: nothing."""
        return {}

    def __call__(
        self,
        objective: Any,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals."""
        w = flatten(params)
        e = torch.randn(self.samples, len(w), generator=generator, dtype=w.dtype)
        e = e * (torch.rand(e.shape, generator=generator) < 0.5)
        up = objective.values(unflatten(w + self.sigma * e, params))
        down = objective.values(unflatten(w - self.sigma * e, params))
        slope = ((up - down) / self.sigma).to(w.dtype)  # E m e e' = 1/2
        grad = unflatten(slope @ e / self.samples, params)
        return Estimate(objective.value(params), grad, 2.0 * self.samples + 1)
