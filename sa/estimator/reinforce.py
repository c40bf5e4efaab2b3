"""REINFORCE: the gradient of the expected loss from losses and the score of the sampled states."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Interval
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _noise
from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Reinforce(Method):
    """(f(b) - c) d log p(b) + df/dw, b - sigmoid(phi) at each unit (Williams 1992).

    It is unbiased for the gradient of the expected loss E f. If rows are independent, the units of
    a row are weighted with the loss of that row alone.

    Paper: Williams, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", Machine Learning, 1992.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.Reinforce(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: draws of the random units that a call averages over.
        baseline: c: ``none`` for 0, or ``running``, the mean loss of earlier calls (0 in the first
            call).
        decay: share of the running baseline that remains after every call, in [0, 1).

    """

    target: ClassVar[str] = "stochastic"
    laws: ClassVar[Laws] = {"constant": "the first call subtracts no baseline"}
    samples: Annotated[int, Gt(0)] = 1
    baseline: Literal["none", "running"] = "none"
    decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9

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
        """Return the estimate, in 3 evals a sample, and 1 more."""
        known = state.get("loss")
        n = objective.batch.rows
        # Units that act on the losses of all rows are compared with n mean losses.
        base = (known or 0.0) * (n if objective.coupled else 1)
        now = 0.0

        def rows(point: Params, part: Batch, noise: _noise.Noise) -> Tensor:
            nonlocal now
            losses, score = _noise.scored(objective, point, part, noise)
            now += float(losses.detach().double().sum()) / n / self.samples
            return losses + (_noise.credited(losses.detach(), objective.coupled) - base) * score

        grad, noise = _noise.average(objective, params, generator, self.samples, rows)
        if self.baseline == "running":
            mean = now if known is None else self.decay * known + (1 - self.decay) * now
            # a loss that is not finite would stay in the running mean
            state = {"loss": mean} if math.isfinite(mean) else {"loss": known} if known else {}
        else:
            state = {}
        evals = 3.0 * self.samples + 1
        return Estimate(objective.value(params), grad, evals, state, noise.info)
