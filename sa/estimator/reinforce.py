"""REINFORCE: the gradient of the expected loss from losses and the score of the sampled states."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Interval
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _noise
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Reinforce:
    """(f(b) - c) d log p(b) + df/dw, b - sigmoid(phi) at each unit (Williams 1992).

    Unbiased for the gradient of E f. Rows are independent, so a row's units answer for that row's
    loss alone.

    Args:
        samples: draws of the random units that a call averages over.
        baseline: c: ``none`` for 0, or ``running``, the mean loss of earlier calls; 0 in the
            first.
        decay: of the running baseline: the share of it that stays at every call.

    """

    target: ClassVar[str] = "stochastic"
    samples: Annotated[int, Gt(0)] = 1
    baseline: Literal["none", "running"] = "none"
    decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9

    def init(self, params: Params) -> State:
        """No mean loss yet."""
        return {}

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where no unit is random, or gradients are quantized."""
        _noise.scores(structure)

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """3 a sample + 1 evals."""
        known = state.get("loss")
        n = objective.batch.rows
        # a row that answers for every row's loss is compared with the mean of them all
        base = (known or 0.0) * (n if objective.coupled else 1)
        seen = 0.0

        def rows(point: Params, part: Batch, noise: _noise.Noise) -> Tensor:
            nonlocal seen
            losses, score = _noise.scored(objective, point, part, noise)
            seen += float(losses.detach().double().sum()) / n / self.samples
            return losses + (_noise.owed(losses.detach(), objective.coupled) - base) * score

        grad, noise = _noise.average(objective, params, generator, self.samples, rows)
        if self.baseline == "running":
            mean = seen if known is None else self.decay * known + (1 - self.decay) * seen
            # one loss that is not finite would be in the mean for ever
            state = {"loss": mean} if math.isfinite(mean) else {"loss": known} if known else {}
        else:
            state = {}
        evals = 3.0 * self.samples + 1
        return Estimate(objective.value(params), grad, evals, state, noise.info)
