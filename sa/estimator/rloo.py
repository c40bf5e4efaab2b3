"""REINFORCE with the leave-one-out baseline: each sample is compared with the others."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _finite, _noise
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class RLOO(Method):
    """(1/(K - 1)) sum_k (f(b_k) - mean f) d log p(b_k) + mean df/dw (Kool et al. 2019).

    The baseline of each of the K = ``samples`` samples is the mean of the others, row by row.
    It is unbiased for the gradient of the expected loss E f. Adding a constant to f changes
    nothing. For K = 2 a unit gets (f(b_1) - f(b_2)) (b_1 - b_2) / 2. A sample with a loss that is
    not finite is left out and counted in ``nonfinite``; K is then the number of the other samples.
    With fewer than two of them the gradient is NaN.

    Papers: Kool, van Hoof & Welling, "Buy 4 REINFORCE samples, get a baseline for free!", ICLR
    workshop, 2019; earlier Salimans & Knowles 2014 and Mnih & Rezende, ICML 2016.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.RLOO(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: K, draws of the random units a call, 2 or more.

    """

    target: ClassVar[str] = "stochastic"
    samples: Annotated[int, Ge(2)] = 2

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
        count, left_out = self.samples, 0

        def rows(point: Params, part: Batch, noise: _noise.Noise) -> Tensor:
            nonlocal left_out
            losses, scores = [], []
            for noise.sample in range(count):
                loss, score = _noise.scored(objective, point, part, noise)
                if loss.detach().isfinite().all():
                    losses.append(loss)
                    scores.append(score)
            left_out = max(left_out, count - len(losses))
            if len(losses) < 2:  # nothing to compare with
                return math.nan * score
            f = torch.stack(losses)  # (samples, rows)
            g = torch.stack([_noise.credited(x.detach(), objective.coupled) for x in losses])
            gain = (g - g.mean(0)) * (len(g) / (len(g) - 1))
            return (f + gain * torch.stack(scores)).mean(0)

        grad, noise = _noise.average(objective, params, generator, 1, rows, count)
        evals = 3.0 * count + 1
        info = noise.info | _finite.counted(left_out)
        return Estimate(objective.value(params), grad, evals, info=info)
