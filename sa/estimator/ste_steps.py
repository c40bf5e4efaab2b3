"""Several straight-through steps within one budget of length: the step that they add up to."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _finite, _guide, _slopes
from sa.estimator._base import DISPLACEMENT, Laws, Method
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class STESteps(Method):
    """-d, d the sum of k steps -(eps/k) g/|g|, g the straight-through gradient where each begins.

    |d| <= eps, and |d| = eps for k = 1. For k > 1 the path turns, and ``length``, |d|, says how
    much of eps is left. Several steps within one budget of length are the projected gradient
    attack of Madry et al. (ICLR 2018); here no projection is needed, because k steps of length
    eps/k never leave the ball.

    The estimate is a displacement, not a gradient (target ``none``): a step of learning rate 1
    against it lands on w + d. ``decrease`` is the fall of the loss measured there; it is below 0 if
    the loss rises. A step whose g is 0 or not finite does not move, and ``nonfinite`` counts those
    that are not finite.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(4)})
    >>> got = sa.STESteps(epsilon=0.5, steps=5)(bowl)
    >>> [round(x, 4) for x in (got.info["length"], got.info["decrease"], got.evals)]
    [0.5, 1.75, 16.0]

    Args:
        epsilon: length of all steps together, in the units of the weights.
        steps: k, steps of equal length.
        surrogate: slope used in place of the derivative of a step function, one of the names of
            `ste`.

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = DISPLACEMENT
    epsilon: Annotated[float, Gt(0)] = 0.1
    steps: Annotated[int, Gt(0)] = 10
    surrogate: _slopes.Name = "clipped"

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 3k + 1 evals."""
        start = flatten(params)
        values, move, left_out = [], torch.zeros_like(start), 0
        for _ in range(self.steps):
            there = unflatten(start + move, params)
            value, grad = _guide.gradient(objective, there, self.surrogate, generator)
            values.append(value)
            if grad.isfinite().all():
                move = move - self.epsilon / self.steps * _guide.unit(grad)
            else:
                left_out += 1
        if left_out == self.steps:
            move = torch.full_like(move, torch.nan)
        after = objective.value(unflatten(start + move, params))
        info: Numbers = {"decrease": float(values[0] - after), "length": float(move.norm())}
        info |= _finite.counted(left_out)
        return Estimate(values[0], unflatten(-move, params), 3.0 * self.steps + 1, info=info)
