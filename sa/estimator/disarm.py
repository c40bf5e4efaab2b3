"""DisARM: antithetic pairs of states, ARM with the uniform integrated out."""

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
class DisARM(Method):
    """(1/2) (f(b1) - f(b2)) 1[b1 != b2] (-1)^b2 sig(|phi|) (Dong, Mnih & Tucker 2020).

    This is the mean of ARM over u given the pair b1 = 1[u > sig(-phi)], b2 = 1[u < sig(phi)], so
    its variance is never larger than that of ARM. It is unbiased for the gradient of the expected
    loss E f. Adding a constant to f changes nothing. It works layer by layer: both passes hold the
    states of earlier layers and sample deeper layers on the same noise.

    Paper: Dong, Mnih & Tucker, "DisARM", NeurIPS 2020. Yin, Ho, Yan, Qian & Zhou, 2020, found the
    same estimator independently and call it U2G.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.DisARM(samples=4)(loss, seed=0).evals
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
    other = surrogate.hard_sign(layer.logits - layer.drawn)
    side = (layer.states - other) / 2  # 0 where b1 = b2, else (-1)^b2
    change = layer.credit(layer.losses - layer.again(other))
    return change * side * torch.sigmoid(layer.logits.abs()) / 2
