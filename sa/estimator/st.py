"""The straight-through estimator for a network of random units, with the derived slope."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _noise
from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class ST(Method):
    """Sampled states s forward, m = dE[s]/da = 2 F'(a) backward (Shekhovtsov & Yanush, GCPR 2021).

    s = +1 with probability F(a), F logistic, so the slope is derived, not chosen. The estimate is
    exact if the loss is linear in each unit's state. On a quadratic it uses E f' in place of the
    secant, so it is exact at a = 0 only. Otherwise, and through more than one layer, it is biased
    for the gradient of the expected loss.

    Paper: Shekhovtsov & Yanush, "Reintroducing straight-through estimators as principled methods
    for stochastic binary networks", GCPR 2021.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.ST(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: draws of the random units that a call averages over.

    """

    target: ClassVar[str] = "stochastic"
    laws: ClassVar[Laws] = {"unbiased": "it is exact for losses that are linear in each unit"}
    samples: Annotated[int, Gt(0)] = 1

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if no unit is random."""
        _noise.requires(structure)

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 3 evals a sample, and 1 more."""
        rows = _noise.sampled(_unit, objective.rows)
        grad, noise = _noise.average(objective, params, generator, self.samples, rows)
        evals = 3.0 * self.samples + 1
        return Estimate(objective.value(params), grad, evals, info=noise.info)


def _unit(k: int, phi: Tensor, noise: _noise.Noise) -> Tensor:
    p = torch.sigmoid(phi)
    return _noise.straight(noise.states(k, phi), phi, 2 * p * (1 - p))
