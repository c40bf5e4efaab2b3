"""The gradient in the span of a surrogate gradient and random directions, by differences."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import ranges, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class OrthonormalProbe(Method):
    """sum_i [f(w + sigma q_i) - f(w - sigma q_i)]/(2 sigma) q_i (Meier et al., 2019).

    The q_i are orthonormal: the direction of the surrogate gradient, then k random ones. On a
    locally linear loss this is the projection of the gradient on their span. With c0 the cosine of
    the surrogate gradient, cos^2 has mean c0^2 + (1 - c0^2) k/(D - 1) and is never below c0^2. The
    estimate is exact at k + 1 = D. It is not rescaled, so its scale, the projection on the
    gradient, is cos^2 as well. In general, each component is the derivative of the loss smoothed
    along q_i (target ``ball``).

    A direction whose difference is not finite is left out of the span and counted in ``nonfinite``.

    Paper: Meier, Mujika, Gauy & Steger, "Improving gradient estimation in evolutionary strategies
    with past descent directions", arXiv 1910.05268, 2019. Their first direction is that of the last
    estimate, not that of the surrogate gradient.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.OrthonormalProbe(samples=2)(bowl, seed=0)  # three directions, of three
    >>> [round(x, 3) for x in got.grad["w"].tolist()]
    [2.0, 2.0, 2.0]

    Args:
        surrogate: slope of the surrogate gradient that is the first direction, one of the names of
            `ste`.
        sigma: length of a step along a direction, in the units of the weights.
        samples: k, random directions beside that of the surrogate; k + 1 <= D.

    """

    target: ClassVar[str] = "ball"
    surrogate: _slopes.Name = "clipped"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Ge(0)] = 4

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2 (k + 1) + 3 evals, 2 k + 3 if the surrogate gradient is 0."""
        dim = sum(p.numel() for p in params.values())
        if self.samples + 1 > dim:
            raise ValueError(
                f"samples={self.samples} and the surrogate gradient are {self.samples + 1} "
                f"directions, but only {dim} parameters move; "
                + (f"set samples <= {dim - 1}" if dim else "let at least one move")
            )
        value, guide = _guide.gradient(objective, params, self.surrogate, generator)
        draws = _directions.gaussian(self.samples, dim, generator, guide)
        basis = _guide.orthonormal(torch.cat([guide[None], *draws]))
        total, sound = torch.zeros_like(guide), 0
        for start, stop in ranges(len(basis), _directions.CHUNK):
            q = basis[start:stop]
            up, down = _guide.pair_losses(objective, params, self.sigma * q)
            slope, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(q.dtype))
            total, sound = total + slope @ q, sound + int(ok.sum())
        if len(basis) and not sound:
            total = _finite.mean(total, 0)
        info = _finite.counted(len(basis) - sound)
        return Estimate(value, unflatten(total, params), 2.0 * len(basis) + 3, info=info)
