"""MeZO: a two-point gaussian estimate with the memory of inference; directions are not stored."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _finite, _scale
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import ranges, size
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State

CHUNK = 1 << 16
"""Numbers of a direction that are in memory at once; another number gives other directions."""


@dataclass(frozen=True, config=STRICT)
class MeZO(Method):
    """(f(w + sigma e) - f(w - sigma e)) / (2 sigma) e, e ~ N(0, I) (Malladi et al. 2023).

    The estimate is the mean of N = ``samples`` such terms. It is unbiased for the gradient of
    f_sigma(w) = E f(w + sigma e), like ``nes``, with the same relative variance (D + 1)/N on a
    linear loss.

    A direction is stored as a seed. Each of its three uses (w + sigma e, w - sigma e, the gradient)
    draws it again, tensor by tensor, in chunks of 2^16 numbers. Beside the gradient, memory holds
    one moved copy of the parameters and one chunk. The published method saves this copy: it moves
    the parameters in place and restores them up to rounding. Here they are not touched.

    Paper: Malladi et al., "Fine-tuning language models with just forward passes", NeurIPS 2023.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.MeZO(samples=1)(bowl, seed=0).evals
    3.0

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights; eps in
            Malladi et al. 2023.
        samples: N, directions a call; 1 in Malladi et al. 2023. A direction with a loss that is not
            finite is left out and counted in ``nonfinite``.

    """

    target: ClassVar[str] = "gaussian"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 1

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals, one point at a time."""
        _scale.require("sigma", self.sigma, params, at)
        plain = torch.contiguous_format  # the order of the draws must not depend on the layout
        grad = {k: torch.zeros_like(p, memory_format=plain) for k, p in params.items()}
        flat = sound = 0
        for _ in range(self.samples):
            seed = torch.randint(1 << 62, (), generator=generator, device=generator.device)
            losses = []
            for move in (self.sigma, -self.sigma):
                moved = {k: p.detach().clone(memory_format=plain) for k, p in params.items()}
                _add(moved, int(seed), move)
                losses.append(float(objective.value(moved)))
                del moved
            gap = losses[0] - losses[1]
            if not math.isfinite(gap):
                continue
            sound, flat = sound + 1, flat + (gap == 0)
            _add(grad, int(seed), gap / (2 * self.sigma * self.samples))
        n = self.samples
        if sound < n:  # the mean is over the other directions
            grad = {k: _finite.mean(g, sound, 1 / n) for k, g in grad.items()}
        law = math.sqrt(n / (n + size(params) + 1))
        info: Numbers = {"flat": flat / max(1, sound), "cosine_expected": law}
        info |= _finite.counted(n - sound)
        return Estimate(objective.value(params), grad, 2.0 * n + 1, info=info)


def _add(into: Params, seed: int, scale: float) -> None:
    """Add scale times the direction of a seed, in place."""
    device = next((p.device for p in into.values()), torch.device("cpu"))
    replay = torch.Generator(device).manual_seed(seed)
    for p in into.values():
        flat = p.view(-1)
        for part, e in _noise(flat, replay):
            part.add_(e, alpha=scale)


def _noise(flat: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the chunks of a vector, each with standard normal numbers of its size."""
    for start, stop in ranges(len(flat), CHUNK):
        shape = (stop - start,)
        e = torch.randn(shape, generator=generator, dtype=flat.dtype, device=flat.device)
        yield flat[start:stop], e
