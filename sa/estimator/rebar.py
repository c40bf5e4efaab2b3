"""REBAR: REINFORCE with the relaxed network as its control variate."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _layers, _noise, _relaxation
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Rebar(Method):
    """[f(b) - eta f(y~)] d log p(b) + eta df(y) - eta df(y~) (Tucker et al. 2017).

    y = sigmoid(z/temperature) is the relaxed sample and b = 1[z > 0]; y~ is y for a z drawn anew
    given b. It is unbiased for the gradient of the expected loss E f at any temperature and eta.
    Adding a constant to f changes nothing at eta = 1 only. Temperature and eta are fixed here;
    `relax` learns them. It works layer by layer: the states of earlier layers are held, and deeper
    layers are sampled for f(b) and relaxed on the same noise for f(y) and f(y~).

    Paper: Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein, "REBAR", NeurIPS 2017.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.Rebar(samples=4)(loss, seed=0).evals
    37.0

    Args:
        samples: draws of the random units that a call averages over.
        temperature: temperature of the relaxed sample y.
        eta: weight of the control variate; 0 gives the plain score function.

    """

    target: ClassVar[str] = "stochastic"
    samples: Annotated[int, Gt(0)] = 1
    temperature: Annotated[float, Gt(0)] = 0.5
    eta: float = 1.0

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
        """Return the estimate, in (3 + 6 layers) evals a sample, and 1 more."""
        grad, noise = _layers.layerwise(
            objective, params, generator, self.samples, self._gain, passes=3
        )
        evals = (3.0 + 6 * noise.layers) * self.samples + 1
        return Estimate(objective.value(params), grad, evals, info=noise.info)

    def _gain(self, layer: _layers.SampledLayer) -> Tensor:
        def variate(z: Tensor) -> Tensor:
            return self.eta * _relaxation.relaxed_losses(layer, z, self.temperature)

        return _relaxation.gain(layer, variate)
