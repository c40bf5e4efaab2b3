"""Another estimator whose smoothing length, eps or sigma, falls along a training."""

from dataclasses import fields, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.estimator._base import Method
from sa.network.hooks import called, trait
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Params, State

LENGTHS = ("epsilon", "sigma")
"""The settings of estimators that are a smoothing length."""


@dataclass(frozen=True, config=STRICT)
class Decayed(Method):
    """The estimate of ``base`` at the length s end^t, s its eps or sigma (target: the base's).

    t, from 0 to 1, is the share of the training that is done; in a probe t is 0. The learning rate
    has a schedule of its own: a rate that falls ends the noise of a training, a length that falls
    ends its bias, which is of the order of the length's square (T3 of docs/truths.md). The row
    holds the length in force, ``length``.

    >>> import sa, torch
    >>> valley = sa.loss(lambda p: (p["w"] ** 3).sum(), params={"w": torch.ones(1)})
    >>> half = sa.Decayed(sa.CDG(epsilon=0.1), end=0.01)
    >>> [round(half(valley, at=sa.Moment(t, 2)).info["length"], 4) for t in (0, 1, 2)]
    [0.1, 0.01, 0.001]

    Args:
        base: the estimator; it needs a setting epsilon or sigma that is a number.
        end: the length at the end of the training, as a share of its start, in (0, 1].

    """

    base: Estimator
    end: Annotated[float, Gt(0), Le(1)] = 0.01

    @model_validator(mode="after")
    def _meaningful(self) -> "Decayed":
        if not isinstance(self._settings().get(self._length()), float):
            raise ValueError(
                f"base: {type(self.base).__name__} has no eps or sigma that is a number; take e.g. "
                "cdg or nes, with a number as sigma"
            )
        if trait(self.base, "own_step"):
            raise ValueError(
                f"base: {type(self.base).__name__} makes the step itself; take an estimator of a "
                "gradient, e.g. cdg or nes"
            )
        return self

    def _settings(self) -> dict[str, Any]:
        base: Any = self.base
        return {f.name: vars(base)[f.name] for f in fields(base)}

    def _length(self) -> str:
        """Return the name of the base's length; '' without one."""
        return next((k for k in LENGTHS if k in self._settings()), "")

    @property
    def target(self) -> str:
        """Return the target: that of the base."""
        return self.base.target

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if the base does not work with this structure."""
        called(self.base, "requires", structure)

    def fits(self, params: Params) -> None:
        """Raise ValueError if the base does not work at this point."""
        called(self.base, "fits", params)

    def init(self, params: Params) -> State:
        """Return the state of the base before the first call."""
        return self.base.init(params)

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in the evals of the base."""
        name = self._length()
        length = self._settings()[name] * self.end**at.progress
        base: Any = replace(self.base, **{name: length})  # type: ignore[type-var]
        found: Estimate = base(objective, params, state, generator, at)
        return replace(found, info={**found.info, "length": length})
