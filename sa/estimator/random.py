"""A random direction: the null hypothesis for every other estimator."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from sa.estimator._base import Laws, Method
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Random(Method):
    """A standard normal direction that ignores the loss; it estimates nothing (target ``none``).

    Its cosine with any fixed direction has mean 0 and standard deviation 1/sqrt(D).

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.Random()(bowl, seed=0)
    >>> got.evals, sa.Random().target
    (1.0, 'none')
    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = {
        "unbiased": "it is a random direction, the null",
        "scale": "its direction does not depend on the loss",
    }

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 1 eval, for the value."""
        w = flatten(params)
        e = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
        return Estimate(
            objective.value(params), unflatten(e, params), 1.0, info={"cosine_expected": 0.0}
        )
