"""Differences along directions uniform on a sphere: the gradient of the ball-smoothed loss."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Sphere:
    """(1/(2 N sigma)) sum_n (f(w + sigma e_n) - f(w - sigma e_n)) e_n, e uniform, |e| = sqrt(D).

    Unbiased for the gradient of E f(w + R v), v uniform in the unit ball, R = sigma sqrt(D): the
    one-point (D/R) f(w + R u) u of Flaxman, Kalai & McMahan (2005), u on the unit sphere, made two-
    point (Duchi et al. 2015; Shamir 2017). The length sqrt(D) gives E e e' = I, so that sigma means
    the same as for gaussian directions. On a linear loss the relative variance is (D - 1)/N, the
    expected cosine sqrt(N/(N + D - 1)).

    Args:
        sigma: length of a step divided by sqrt(D), in the units of the weights; it means the same
            as for gaussian directions.
        samples: N, antithetic pairs a call.

    """

    target: ClassVar[str] = "ball"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500

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
        """2N + 1 evals. Memory holds one block of directions."""
        return _directions.pairs(
            objective, params, generator, at, _directions.sphere, self.samples, self.sigma, 1
        )
