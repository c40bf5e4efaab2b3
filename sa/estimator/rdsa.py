"""Random directions stochastic approximation: cheap distributions beside Rademacher's."""

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class RDSA:
    """(1/(2 N sigma)) sum_n (f(w + sigma e_n) - f(w - sigma e_n)) e_n (Prashanth et al. 2017).

    Mean of component i: the derivative of f smoothed along i with a kernel (3 - t^2)/(4 sqrt(3)) on
    the uniform's support (a box for two points), all other coordinates at w_j + sigma e_j (target
    ``cube``). With E e_i^4 = k the relative variance on a linear loss is (D + k - 2)/N: k = 9/5 for
    uniform, 1 + skew^2/(1 + skew) for asymmetric, never below SPSA's (k = 1).

    Args:
        sigma: standard deviation of a step's coordinates, in the units of the weights.
        samples: N, antithetic pairs a call.
        distribution: of the entries of a direction, independent and scaled to variance 1.
            ``uniform`` in [-sqrt(3), sqrt(3)] (published in [-eta, eta] with a factor 3/eta^2: the
            same estimate), or ``asymmetric``: -1 with probability (1 + skew)/(2 + skew), else 1 +
            skew, over sqrt(1 + skew).
        skew: of asymmetric entries; published near 1e-4.

    """

    target: ClassVar[str] = "cube"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    distribution: Literal["uniform", "asymmetric"] = "uniform"
    skew: Annotated[float, Gt(0)] = 1e-4

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
        if self.distribution == "uniform":
            draw: _directions.Draw = _directions.uniform
            kurtosis = 9 / 5
        else:
            draw = partial(_directions.two_point, skew=self.skew)
            kurtosis = 1 + self.skew**2 / (1 + self.skew)
        return _directions.pairs(
            objective, params, generator, at, draw, self.samples, self.sigma, kurtosis
        )
