"""Gumbel-softmax for binary units: back-propagation through a relaxed sample."""

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
class Gumbel(Method):
    """y = sigmoid((phi + logit u)/temperature), states 2 y - 1 (Jang 2017; Maddison 2017).

    It is unbiased for the gradient of the relaxed network, but biased for the network of hard
    states. A smaller temperature has less bias, and its variance grows like 1/temperature.

    Papers: Jang, Gu & Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017;
    Maddison, Mnih & Teh, "The Concrete distribution", ICLR 2017.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.Gumbel(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: draws of the random units that a call averages over.
        temperature: temperature of the relaxed states; a small one is close to hard states and has
            a large variance.
        hard: true uses the hard state 1[y > 1/2] in the forward pass; the backward pass stays
            that of y (straight-through Gumbel).

    """

    target: ClassVar[str] = "stochastic"
    laws: ClassVar[Laws] = {"unbiased": "it is the gradient of relaxed states, not of hard ones"}
    samples: Annotated[int, Gt(0)] = 1
    temperature: Annotated[float, Gt(0)] = 1.0
    hard: bool = False

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
        y = torch.sigmoid((phi + noise.draw(k, phi)) / self.temperature)
        if not self.hard:
            return 2 * y - 1
        return _noise.straight(states, phi, 2 * y * (1 - y) / self.temperature)
