"""Random directions stochastic approximation: uniform and asymmetric two-point directions."""

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class RDSA(Method):
    """(1/(2 N sigma)) sum_n (f(w + sigma e_n) - f(w - sigma e_n)) e_n (Prashanth et al. 2017).

    The mean of component i is the derivative of f smoothed along i, while every other coordinate
    is at w_j + sigma e_j (target ``cube``). The kernel is (3 - t^2)/(4 sqrt(3)) on the support of
    uniform entries, and a box for two-point entries. On a linear loss the relative variance is (D +
    k - 2)/N with k = E e_i^4: k = 9/5 for uniform entries and 1 + skew^2/(1 + skew) for asymmetric
    ones, never below that of SPSA (k = 1).

    Paper: Prashanth, Bhatnagar, Fu & Marcus, "Adaptive system optimization using random directions
    stochastic approximation", IEEE Transactions on Automatic Control, 2017.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.RDSA(samples=10)(bowl, seed=0).evals
    21.0

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights.
        samples: N, antithetic pairs a call.
        distribution: distribution of the entries of a direction, which are independent and have
            variance 1. ``uniform`` on [-sqrt(3), sqrt(3)] (published on [-eta, eta] with a factor
            3/eta^2, which is the same estimate), or ``asymmetric``: -1 with probability (1 +
            skew)/(2 + skew), else 1 + skew, both divided by sqrt(1 + skew).
        skew: skew of asymmetric entries; near 1e-4 in Prashanth et al. 2017.

    """

    target: ClassVar[str] = "cube"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    distribution: Literal["uniform", "asymmetric"] = "uniform"
    skew: Annotated[float, Gt(0)] = 1e-4

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals. Only one chunk of directions is in memory."""
        if self.distribution == "uniform":
            draw: _directions.Draw = _directions.uniform
            kurtosis = 9 / 5
        else:
            draw = partial(_directions.two_point, skew=self.skew)
            kurtosis = 1 + self.skew**2 / (1 + self.skew)
        return _directions.pairs(
            objective, params, generator, at, draw, self.samples, self.sigma, kurtosis
        )
