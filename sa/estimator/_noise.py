"""Noise of random units: the same for every split of the rows, replayed by later passes."""

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
"""Row losses (rows,) to differentiate, of a part of the batch under one sample of the noise."""


class Noise:
    """Standard logistic noise e = logit u, u ~ U(0, 1), for every layer of random units.

    A unit with logits phi is up where phi + e >= 0, that is where u >= 1/(1 + exp(phi)): with
    probability 1/(1 + exp(-phi)). A stream for every layer, sample and use is drawn in row order,
    so that splitting the rows changes nothing; within one part of the rows a second pass sees what
    the first one drew. sample: which of the independent samples is drawn.
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
        """The next part of the rows starts: forget what the last one drew."""
        self._rows = rows
        self._drawn.clear()
        self._counted.clear()

    def draw(self, k: int, phi: Tensor, use: str = "state") -> Tensor:
        """Noise of the shape of layer k's logits phi."""
        key = (self.sample, k, use)
        if key not in self._drawn:
            if k >= 0 and phi.shape[:1] != (self._rows,) and self._rows > 1:
                raise ValueError(
                    f"random units need logits of shape (rows, ...): layer {k} has "
                    f"{tuple(phi.shape)} for {self._rows} rows"
                )
            if k < 0 or key not in self._streams:  # no rows: every part draws the same
                self._streams[key] = stream(self.seed, *key)
            # on the CPU, where numbers come in order; on a GPU they depend on the shape asked for
            u = torch.rand(phi.shape, generator=self._streams[key], dtype=phi.dtype)
            self._drawn[key] = torch.logit(u, torch.finfo(u.dtype).eps).to(phi.device)
        return self._drawn[key]

    def states(self, k: int, phi: Tensor) -> Tensor:
        """Sampled states, -1 or +1, of layer k; they carry no gradient."""
        states = surrogate.hard_sign(phi.detach() + self.draw(k, phi))
        if (self.sample, k) not in self._counted:
            self._counted.add((self.sample, k))
            self.layers = max(self.layers, k + 1)  # of rows
            self._units += phi.numel()
            self._flipped += float((states != surrogate.hard_sign(phi)).sum())
        return states

    @property
    def info(self) -> Numbers:
        """flip_rate: the share of states drawn that differ from the most probable ones.

        nonfinite: how many samples were left out.
        """
        return {"flip_rate": self._flipped / self._units} | _finite.counted(self.left_out)

    @property
    def sampled(self) -> bool:
        """Whether any unit was."""
        return self._units > 0


def of_rows(k: int) -> int:
    """k, the number of a layer whose units are rows'; raises ValueError for others."""
    if k < 0:
        raise ValueError(
            "weights are rounded at random here, and this estimator takes random units of rows "
            "only; use estimator=sr_ste, st, gumbel or reinmax, or rounding=nearest"
        )
    return k


def requires(structure: Structure) -> None:
    """Raise ValueError where the network is known to have no random units, saying what to type."""
    if structure.stochastic is False:
        raise ValueError(
            "this estimator samples random units, and the network has none; use quantizer=sba, or "
            "quantizer/activation=bernoulli"
        )


def scores(structure: Structure) -> None:
    """Raise ValueError where a score function has no units, or a quantizer no effect on it."""
    requires(structure)
    if structure.gradients:
        raise ValueError(
            "it learns by the scores of random units and back-propagates nothing through them, so "
            "quantizer.gradient has no effect; set quantizer/gradient=none, or take estimator=st, "
            "gumbel, reinmax or sr_ste"
        )


def average(
    objective: Objective,
    params: Params,
    generator: torch.Generator,
    samples: int,
    rows: Pass,
    passes: int = 1,
) -> tuple[Params, Noise]:
    """The gradient of rows(params, part, noise), averaged over samples of the noise, and the noise.

    Samples whose gradient is not finite are left out; the gradient is NaN where all are. passes:
    how many forwards ``rows`` keeps alive at once. Raises ValueError where no random unit was
    sampled.
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
    if noise.left_out:  # the mean is over the others
        share = samples - noise.left_out, 1 / samples
        grads = {k: _finite.mean(g, *share) for k, g in grads.items()}
    if not noise.sampled:
        raise ValueError(
            "the loss asked for no random unit: call sa.surrogate.bernoulli(logits) in it, or use "
            "a network with quantizer/activation=bernoulli"
        )
    return grads, noise


def sampled(unit: Callable[[int, Tensor, Noise], Tensor], rows: RowLoss) -> Pass:
    """Row losses where layer k of random units is ``unit(k, logits, noise)``."""

    def run(params: Params, part: Batch, noise: Noise) -> Tensor:
        with surrogate.sampling(lambda k, phi: unit(k, phi, noise)):
            return rows(params, part)

    return run


def straight(states: Tensor, phi: Tensor, slope: Tensor) -> Tensor:
    """The states, bit for bit, with ``slope`` as their derivative by the logits phi."""
    return states + slope.detach() * (phi - phi.detach())


def scored(
    objective: Objective, params: Params, part: Batch, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Losses (rows,) of one sample and the log-probability (rows,) of its states.

    The derivative of the latter by a unit's logit phi is b - sigmoid(phi), b = (1 + s)/2.
    """
    scores: list[Tensor] = []

    def unit(k: int, phi: Tensor) -> Tensor:
        states = noise.states(of_rows(k), phi)
        scores.append(F.logsigmoid(states * phi).reshape(part.rows, -1).sum(1))
        return states

    with surrogate.sampling(unit):
        losses = objective.rows(params, part)
    return losses, torch.stack(scores).sum(0) if scores else torch.zeros_like(losses)


def owed(losses: Tensor, coupled: bool) -> Tensor:
    """The part (rows,) of the summed loss that each row's units answer for: their own row's.

    Where rows are coupled (BatchNorm on batch statistics), a unit acts on every row's loss.
    """
    return losses.sum().expand_as(losses) if coupled else losses
