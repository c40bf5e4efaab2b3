"""Differences along directions uniform on a sphere: the gradient of the ball-smoothed loss."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Sphere(Method):
    """(1/(2 N sigma)) sum_n (f(w + sigma e_n) - f(w - sigma e_n)) e_n, e uniform, |e| = sqrt(D).

    It is unbiased for the gradient of E f(w + R v), with v uniform in the unit ball and R = sigma
    sqrt(D) (target ``ball``). The length sqrt(D) gives E e e' = I, so sigma means the same as for
    gaussian directions. On a linear loss the relative variance is (D - 1)/N and the expected cosine
    is sqrt(N/(N + D - 1)).

    Papers: Flaxman, Kalai & McMahan, SODA 2005, for the one-point estimate (D/R) f(w + R u) u, u on
    the unit sphere; Duchi et al., IEEE Transactions on Information Theory, 2015, and Shamir, JMLR
    2017, for its two-point form.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.Sphere(samples=10)(bowl, seed=0).evals
    21.0

    Args:
        sigma: length of a step divided by sqrt(D), in the units of the weights; the same scale as
            for gaussian directions.
        samples: N, antithetic pairs a call.

    """

    target: ClassVar[str] = "ball"
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
            objective, params, generator, at, _directions.sphere, self.samples, self.sigma, 1
        )
