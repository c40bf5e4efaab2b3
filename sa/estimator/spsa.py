"""Simultaneous perturbation: all coordinates move at once, each by +sigma or -sigma."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class SPSA(Method):
    """(1/(2 N sigma)) sum_n (f(w + sigma e_n) - f(w - sigma e_n)) e_n, e_i = +-1 (Spall 1992).

    The mean of component i is exactly the derivative of f smoothed over a box of half-width sigma
    along i, while every other coordinate is at w_j +- sigma at random (target ``cube``; in one
    dimension this is the CDG). Different components belong to different smoothed losses. On a
    linear loss the relative variance is (D - 1)/N, the smallest for independent entries, and the
    expected cosine is sqrt(N/(N + D - 1)).

    Paper: Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient
    approximation", IEEE Transactions on Automatic Control, 1992.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.SPSA(samples=10)(bowl, seed=0).evals
    21.0

    Args:
        sigma: size of a step along every coordinate, in the units of the weights; c in
            Spall 1992.
        samples: N, antithetic pairs a call.

    """

    target: ClassVar[str] = "cube"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals. Only one chunk of directions is in memory."""
        return _directions.pairs(
            objective, params, generator, at, _directions.two_point, self.samples, self.sigma, 1
        )
