"""ReinMax: a straight-through estimator of second order."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _noise
from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class ReinMax(Method):
    """2 J(q) g - J(p) g / 2, q = (p_tau + b)/2, J(p) = p (1 - p) (Liu et al., NeurIPS 2023).

    g is the derivative of the loss by the sampled state b in {0, 1}, p = sigmoid(phi), and p_tau =
    sigmoid(phi / temperature). For s = 2 b - 1 the slope is m = 4 q (1 - q) - p (1 - p).

    At temperature 1 the mean over one unit is p (1 - p) (f'(0) + f'(1))/2, Heun's trapezium rule
    for the secant f(1) - f(0). It is exact if the loss is quadratic in each unit's state. It is
    biased on a cubic, by p (1 - p) f'''/12, and through more than one layer. A temperature above
    1 trades bias for variance.

    Paper: Liu, Dong, Liu, Yu & Gao, "Bridging discrete and backpropagation: straight-through and
    beyond", NeurIPS 2023.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.ReinMax(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: draws of the random units that a call averages over.
        temperature: temperature of p_tau, 1 or more; above 1 it trades bias for variance.

    """

    target: ClassVar[str] = "stochastic"
    laws: ClassVar[Laws] = {"unbiased": "it is exact up to quadratics of one unit, biased beyond"}
    samples: Annotated[int, Gt(0)] = 1
    temperature: Annotated[float, Ge(1)] = 1.0

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
        rows = _noise.sampled(self._unit, objective.rows)
        grad, noise = _noise.average(objective, params, generator, self.samples, rows)
        evals = 3.0 * self.samples + 1
        return Estimate(objective.value(params), grad, evals, info=noise.info)

    def _unit(self, k: int, phi: Tensor, noise: _noise.Noise) -> Tensor:
        states = noise.states(k, phi)
        p = torch.sigmoid(phi)
        q = (torch.sigmoid(phi / self.temperature) + (1 + states) / 2) / 2
        return _noise.straight(states, phi, 4 * q * (1 - q) - p * (1 - p))
