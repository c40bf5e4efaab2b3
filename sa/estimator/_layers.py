"""Gradients of random units, one layer at a time.

The states of earlier layers stay as they are; deeper layers are sampled again on the same noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sa import surrogate
from sa.estimator._noise import Noise, average, credited, of_rows
from sa.objective.objective import Objective
from sa.types import Batch, Params


@dataclass
class SampledLayer:
    """One layer of random units in one sampled pass.

    Args:
        index: number of the layer.
        rows: rows of the pass.
        logits: (rows, ...), without graph.
        states: (rows, ...), -1 or +1, without graph.
        noise: the noise of the pass.
        losses: (rows,), the losses of the pass.
        coupled: whether a row's loss depends on the other rows.

    """

    index: int
    rows: int
    logits: Tensor
    states: Tensor
    noise: Noise
    losses: Tensor
    coupled: bool
    _forward: Callable[[surrogate.Unit], Tensor]
    _before: list[Tensor]

    @property
    def drawn(self) -> Tensor:
        """Return the logistic noise (rows, ...) that the states were sampled with."""
        return self.noise.draw(self.index, self.logits)

    def again(self, states: Tensor, deeper: surrogate.Unit | None = None) -> Tensor:
        """Return the losses (rows,) with other states in this layer and the same ones before it.

        Args:
            states: the states of this layer.
            deeper: (layer, logits) -> states of the deeper layers; None samples them on the same
                noise.

        """
        rest = deeper or self.noise.states

        def unit(k: int, phi: Tensor) -> Tensor:
            if k < self.index:
                return self._before[k]
            return states if k == self.index else rest(k, phi)

        return self._forward(unit)

    def credit(self, losses: Tensor) -> Tensor:
        """Return the loss (rows, 1, ...) that each unit acts on, from losses (rows,)."""
        return credited(losses, self.coupled).view(-1, *[1] * (self.logits.dim() - 1))


def layerwise(
    objective: Objective,
    params: Params,
    generator: torch.Generator,
    samples: int,
    gain: Callable[[SampledLayer], Tensor],
    passes: int = 1,
) -> tuple[Params, Noise]:
    """Return the gradient, given an estimate of d(loss)/d(logits) of each layer, and the noise.

    Given the earlier layers, the units of a layer are independent, and the loss averaged over the
    deeper layers is a function of their states alone. The estimate is back-propagated from the
    layer's logits (no gradient passes the steps before them). The loss itself is back-propagated
    to the parameters after the last random unit.

    Args:
        objective: the loss.
        params: the point.
        generator: seeds the noise.
        samples: draws of the noise to average over.
        gain: layer -> estimate of d(loss)/d(logits), of the shape of its logits.
        passes: forwards that ``gain`` holds in memory at once.

    """

    def rows(point: Params, part: Batch, noise: Noise) -> Tensor:
        live: list[Tensor] = []
        states: list[Tensor] = []
        held = {k: v.detach() for k, v in point.items()}

        def record(k: int, phi: Tensor) -> Tensor:
            live.append(phi)
            states.append(noise.states(of_rows(k), phi))
            return states[-1]

        def forward(unit: surrogate.Unit) -> Tensor:
            with surrogate.sampling(unit):
                return objective.rows(held, part)

        with surrogate.sampling(record):
            losses = objective.rows(point, part)
        total = losses
        for k, phi in enumerate(live):
            layer = SampledLayer(
                k, part.rows, phi.detach(), states[k], noise, losses.detach(), objective.coupled,
                forward, states,
            )  # fmt: skip
            total = total + (gain(layer).detach() * phi).reshape(part.rows, -1).sum(1)
        return total

    return average(objective, params, generator, samples, rows, passes)
