"""Random units one layer at a time: earlier layers held, deeper ones on common noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sa import surrogate
from sa.estimator._noise import Noise, average, of_rows, owed
from sa.objective.objective import Objective
from sa.types import Batch, Params


@dataclass
class Layer:
    """Layer ``index`` of one sampled pass over ``rows`` rows.

    logits, states and noise (rows, ...), without graph; losses (rows,) of the pass. ``again`` gives
    the losses (rows,) with other states in this layer.
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
        """The logistic noise that made the states."""
        return self.noise.draw(self.index, self.logits)

    def again(self, states: Tensor, deeper: surrogate.Unit | None = None) -> Tensor:
        """Losses (rows,): earlier layers as they were, this one given, deeper ones by ``deeper``.

        By default deeper layers are sampled again, on the same noise.
        """
        rest = deeper or self.noise.states

        def unit(k: int, phi: Tensor) -> Tensor:
            if k < self.index:
                return self._before[k]
            return states if k == self.index else rest(k, phi)

        return self._forward(unit)

    def answer(self, losses: Tensor) -> Tensor:
        """What each unit answers for (rows, 1, ...), from losses (rows,)."""
        return owed(losses, self.coupled).view(-1, *[1] * (self.logits.dim() - 1))


def layerwise(
    objective: Objective,
    params: Params,
    generator: torch.Generator,
    samples: int,
    gain: Callable[[Layer], Tensor],
    passes: int = 1,
) -> tuple[Params, Noise]:
    """The gradient where ``gain(layer)`` estimates d(loss)/d(logits) of each layer of random units.

    Given the earlier layers, a layer's units are independent and the loss averaged over the deeper
    ones is a function of their states alone. The gain is back-propagated to what makes the layer's
    logits (steps before it pass nothing on); the loss itself to what comes after the last unit.
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
            layer = Layer(
                k, part.rows, phi.detach(), states[k], noise, losses.detach(), objective.coupled,
                forward, states,
            )  # fmt: skip
            total = total + (gain(layer).detach() * phi).reshape(part.rows, -1).sum(1)
        return total

    return average(objective, params, generator, samples, rows, passes)
