"""ARM: antithetic pairs of uniforms for the gradient of the expected loss."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.estimator import _layers, _noise
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class ARM(Method):
    """(f(b1) - f(b2)) (u - 1/2), b1 = 1[u > sig(-phi)], b2 = 1[u < sig(phi)] (Yin & Zhou 2019).

    The name is short for augment-REINFORCE-merge. The estimate is unbiased for the gradient of the
    expected loss E f. Adding a constant to f changes nothing. It works layer by layer: both passes
    hold the states of earlier layers and sample deeper layers on the same noise.

    Paper: Yin & Zhou, "ARM: Augment-REINFORCE-Merge Gradient", ICLR 2019.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.ARM(samples=4)(loss, seed=0).evals
    17.0

    Args:
        samples: draws of the random units that a call averages over.

    """

    target: ClassVar[str] = "stochastic"
    samples: Annotated[int, Gt(0)] = 1

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if no unit is random or gradients are quantized."""
        _noise.scores(structure)

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in (3 + layers) evals a sample, and 1 more."""
        grad, noise = _layers.layerwise(objective, params, generator, self.samples, _gain)
        evals = (3.0 + noise.layers) * self.samples + 1
        return Estimate(objective.value(params), grad, evals, info=noise.info)


@torch.no_grad()
def _gain(layer: _layers.SampledLayer) -> Tensor:
    e = layer.drawn
    other = layer.again(surrogate.hard_sign(layer.logits - e))  # 1 - u in place of u
    return layer.credit(layer.losses - other) * (torch.sigmoid(e) - 0.5)
