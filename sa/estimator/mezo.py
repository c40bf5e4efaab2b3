"""MeZO: a two-point gaussian estimate in the memory of inference, directions never stored."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _finite, _scale
from sa.objective.objective import Objective
from sa.params import blocks, size
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State

BLOCK = 1 << 16
"""Numbers of a direction that exist at once: part of the stream's definition."""


@dataclass(frozen=True, config=STRICT)
class MeZO:
    """(f(w + sigma e) - f(w - sigma e)) / (2 sigma) e, e ~ N(0, I) (Malladi et al. 2023).

    SPSA along a gaussian direction, averaged over N = samples: unbiased for the gradient of
    f_sigma(w) = E f(w + sigma e), like ``nes``; on a linear loss the same relative variance
    (D + 1)/N. The direction is a seed: each of its three uses (w + sigma e, w - sigma e, the
    gradient) draws it again, tensor by tensor, in blocks of 2^16 numbers. Memory beside the
    gradient: one moved copy of the parameters and one block. The published method moves them in
    place and saves the copy, at the price of a point restored up to rounding; here it is untouched.

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights; eps in the
            paper.
        samples: directions a call, 1 in the paper. One with a loss that is not finite is left out,
            and counted in ``nonfinite``.

    """

    target: ClassVar[str] = "gaussian"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 1

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2N + 1 evals, one point at a time."""
        _scale.require("sigma", self.sigma, params, at)
        plain = torch.contiguous_format  # whatever the layout, numbers are drawn in one order
        grad = {k: torch.zeros_like(p, memory_format=plain) for k, p in params.items()}
        flat = sound = 0
        for _ in range(self.samples):
            seed = torch.randint(1 << 62, (), generator=generator, device=generator.device)
            ends = []
            for move in (self.sigma, -self.sigma):
                moved = {k: p.detach().clone(memory_format=plain) for k, p in params.items()}
                _add(moved, int(seed), move)
                ends.append(float(objective.value(moved)))
                del moved
            if not math.isfinite(ends[0] - ends[1]):
                continue
            sound, flat = sound + 1, flat + (ends[0] == ends[1])
            _add(grad, int(seed), (ends[0] - ends[1]) / (2 * self.sigma * self.samples))
        n = self.samples
        if sound < n:  # the mean is over the others
            grad = {k: _finite.mean(g, sound, 1 / n) for k, g in grad.items()}
        law = math.sqrt(n / (n + size(params) + 1))
        info: Numbers = {"flat": flat / max(1, sound), "cosine_expected": law}
        info |= _finite.counted(n - sound)
        return Estimate(objective.value(params), grad, 2.0 * n + 1, info=info)


def _add(into: Params, seed: int, scale: float) -> None:
    """Add scale times the seed's direction, in place."""
    device = next((p.device for p in into.values()), torch.device("cpu"))
    replay = torch.Generator(device).manual_seed(seed)
    for p in into.values():
        flat = p.view(-1)
        for part, e in _noise(flat, replay):
            part.add_(e, alpha=scale)


def _noise(flat: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for start, stop in blocks(len(flat), BLOCK):
        shape = (stop - start,)
        e = torch.randn(shape, generator=generator, dtype=flat.dtype, device=flat.device)
        yield flat[start:stop], e
