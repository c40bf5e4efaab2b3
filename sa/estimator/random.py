"""A random direction: the null every other estimator is read against."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Random:
    """A standard normal direction that ignores the loss; estimates nothing (target ``none``).

    Its cosine with any fixed direction has mean 0 and standard deviation 1/sqrt(D).
    """

    target: ClassVar[str] = "none"

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
        """1 eval, for the value."""
        w = flatten(params)
        e = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
        return Estimate(
            objective.value(params), unflatten(e, params), 1.0, info={"cosine_expected": 0.0}
        )
