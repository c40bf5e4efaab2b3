"""Noise of random units: the same for every split of the rows, and repeated by later passes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sa import surrogate
from sa.estimator import _finite
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import finite, stream
from sa.types import Batch, Numbers, Params, RowLoss

Pass = Callable[[Params, Batch, "Noise"], Tensor]
"""(params, part of the batch, noise) -> row losses (rows,) to differentiate."""


class Noise:
    """Standard logistic noise e = logit u, u ~ U(0, 1), for every layer of random units.

    A unit with logit phi is up if phi + e >= 0, that is, if u >= 1/(1 + exp(phi)). This has
    probability 1/(1 + exp(-phi)). Every layer, sample and use has its own stream, drawn in the
    order of the rows, so splitting the rows changes nothing. Within one part of the rows, a second
    pass gets the same noise as the first. ``sample`` is the number of the current sample.
    """

    def __init__(self, generator: torch.Generator):
        self.seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        self.sample = 0
        self.layers = 0
        self._streams: dict[tuple[int, int, str], torch.Generator] = {}
        self._drawn: dict[tuple[int, int, str], Tensor] = {}
        self._rows = 0
        self._counted: set[tuple[int, int]] = set()
        self._units = self._flipped = 0.0
        self.left_out = 0

    def begin(self, rows: int) -> None:
        """Start the next part of the rows: forget the noise of the last part."""
        self._rows = rows
        self._drawn.clear()
        self._counted.clear()

    def draw(self, k: int, phi: Tensor, use: str = "state") -> Tensor:
        """Return the noise for layer k, in the shape of its logits phi."""
        key = (self.sample, k, use)
        if key not in self._drawn:
            if k >= 0 and phi.shape[:1] != (self._rows,) and self._rows > 1:
                raise ValueError(
                    f"random units need logits of shape (rows, ...), but those of layer {k} have "
                    f"shape {tuple(phi.shape)} for {self._rows} rows"
                )
            if k < 0 or key not in self._streams:  # k < 0 has no rows: every part draws the same
                self._streams[key] = stream(self.seed, *key)
            # The CPU draws numbers in order; on a GPU they depend on the shape of the tensor.
            u = torch.rand(phi.shape, generator=self._streams[key], dtype=phi.dtype)
            self._drawn[key] = torch.logit(u, torch.finfo(u.dtype).eps).to(phi.device)
        return self._drawn[key]

    def states(self, k: int, phi: Tensor) -> Tensor:
        """Return sampled states, -1 or +1, of layer k; they carry no gradient."""
        states = surrogate.hard_sign(phi.detach() + self.draw(k, phi))
        if (self.sample, k) not in self._counted:
            self._counted.add((self.sample, k))
            self.layers = max(self.layers, k + 1)  # counts only layers with units of each row
            self._units += phi.numel()
            self._flipped += float((states != surrogate.hard_sign(phi)).sum())
        return states

    @property
    def info(self) -> Numbers:
        """Return the numbers of the samples.

        ``flip_rate`` is the share of sampled states that differ from the most probable ones;
        ``nonfinite`` is how many samples were left out.
        """
        return {"flip_rate": self._flipped / self._units} | _finite.counted(self.left_out)

    @property
    def sampled(self) -> bool:
        """Return whether any unit was sampled."""
        return self._units > 0


def of_rows(k: int) -> int:
    """Return k if layer k samples one unit per row; raise ValueError if rows share its units."""
    if k < 0:
        raise ValueError(
            "the weights are rounded at random, and this estimator works only if each row samples "
            "units of its own; use estimator=sr_ste, st, gumbel or reinmax, or rounding=nearest"
        )
    return k


def requires(structure: Structure) -> None:
    """Raise ValueError if the network is known to have no random units."""
    if structure.stochastic is False:
        raise ValueError(
            "this estimator samples random units, but the network has none; use quantizer=sba, or "
            "quantizer/activation=bernoulli"
        )


def scores(structure: Structure) -> None:
    """Raise ValueError if no unit is random, or if a gradient quantizer would have no effect."""
    requires(structure)
    if structure.gradients:
        raise ValueError(
            "this estimator uses the scores of random units and back-propagates nothing through "
            "them, so quantizer.gradient has no effect; set quantizer/gradient=none, or use "
            "estimator=st, gumbel, reinmax or sr_ste"
        )


def average(
    objective: Objective,
    params: Params,
    generator: torch.Generator,
    samples: int,
    rows: Pass,
    passes: int = 1,
) -> tuple[Params, Noise]:
    """Return the gradient of ``rows``, averaged over samples of the noise, and the noise.

    A sample whose gradient is not finite is left out; if all are, the gradient is NaN.

    Args:
        objective: the loss.
        params: the point.
        generator: seeds the noise.
        samples: draws of the noise to average over.
        rows: gives the row losses to differentiate.
        passes: forwards that ``rows`` holds in memory at once.

    Raises:
        ValueError: no random unit was sampled.

    """
    requires(objective.structure)
    noise = Noise(generator)
    grads = {k: torch.zeros_like(v) for k, v in params.items()}

    def part_losses(point: Params, part: Batch) -> Tensor:
        noise.begin(part.rows)
        return rows(point, part, noise)

    for sample in range(samples):
        noise.sample = sample
        _, grad = objective.value_and_grad(params, part_losses, passes, generator)
        if not finite(grad):
            noise.left_out += 1
            continue
        for name, g in grad.items():
            grads[name] += g / samples
    if noise.left_out:  # the mean is over the other samples
        share = samples - noise.left_out, 1 / samples
        grads = {k: _finite.mean(g, *share) for k, g in grads.items()}
    if not noise.sampled:
        raise ValueError(
            "the loss sampled no random unit; call sa.surrogate.bernoulli(logits) in it, or use a "
            "network with quantizer/activation=bernoulli"
        )
    return grads, noise


def sampled(unit: Callable[[int, Tensor, Noise], Tensor], rows: RowLoss) -> Pass:
    """Return the row losses of a network whose random units are ``unit(layer, logits, noise)``."""

    def run(params: Params, part: Batch, noise: Noise) -> Tensor:
        with surrogate.sampling(lambda k, phi: unit(k, phi, noise)):
            return rows(params, part)

    return run


def straight(states: Tensor, phi: Tensor, slope: Tensor) -> Tensor:
    """Return the states, bit for bit, with ``slope`` as their derivative by the logits phi."""
    return states + slope.detach() * (phi - phi.detach())


def scored(
    objective: Objective, params: Params, part: Batch, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return the losses (rows,) of one sample and the log-probability (rows,) of its states.

    The derivative of the log-probability by a unit's logit phi is b - sigmoid(phi), b = (1 + s)/2.
    """
    scores: list[Tensor] = []

    def unit(k: int, phi: Tensor) -> Tensor:
        states = noise.states(of_rows(k), phi)
        scores.append(F.logsigmoid(states * phi).reshape(part.rows, -1).sum(1))
        return states

    with surrogate.sampling(unit):
        losses = objective.rows(params, part)
    return losses, torch.stack(scores).sum(0) if scores else torch.zeros_like(losses)


def credited(losses: Tensor, coupled: bool) -> Tensor:
    """Return the loss (rows,) that the units of each row act on: the loss of their own row.

    If rows are coupled (BatchNorm with batch statistics), units act on the losses of all rows.
    """
    return losses.sum().expand_as(losses) if coupled else losses
