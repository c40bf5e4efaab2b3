"""Schedules of the learning rate: functions of the step that multiply the optimizer's rate.

A schedule has no state, so a checkpoint holds nothing of it. During a warm-up of n steps the factor
rises as (step + 1)/n.
"""

import math
from fractions import Fraction
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.types import STRICT

Share = Annotated[float, Gt(0), Lt(1)]


def first_step(share: float, steps: int) -> int:
    """Return the first step at or after a share of a training of so many steps.

    The share counts as the decimal number that was typed: its product with ``steps`` in floating
    point may lie just above a whole number.

    >>> 0.55 * 100 > 55, first_step(0.55, 100)
    (True, 55)
    """
    return math.ceil(Fraction(str(share)) * steps)


@dataclass(frozen=True, config=STRICT)
class Annealed:
    """A factor that falls from 1 to ``end`` after the warm-up, linearly or along half a cosine.

    The cosine is that of SGDR without restarts (Loshchilov & Hutter, ICLR 2017). With end = 1 the
    rate stays constant.

    >>> [Annealed("cosine")(step, 4) for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]

    Args:
        shape: how the rate falls: linearly, or along half a cosine.
        end: the rate at the end, as a share of the optimizer's rate.
        warmup: steps over which the rate rises from 0 to the optimizer's.

    """

    shape: Literal["linear", "cosine"] = "linear"
    end: Annotated[float, Ge(0), Le(1)] = 0.0
    warmup: Annotated[int, Ge(0)] = 0

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor of the rate at a step of a training of so many steps."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        x = (step - self.warmup) / max(1, steps - self.warmup)
        fallen = x if self.shape == "linear" else (1 - math.cos(math.pi * x)) / 2
        return 1 - (1 - self.end) * fallen


@dataclass(frozen=True, config=STRICT)
class StepDecay:
    """The step schedule: multiplies the rate by ``gamma`` at each of ``at``, shares of a training.

    >>> [StepDecay(at=(0.5,), gamma=0.1)(step, 4) for step in (1, 2)]
    [1.0, 0.1]

    Args:
        at: shares of the training at which the rate falls, rising, e.g. [0.5,0.75].
        gamma: factor of the rate at each of them.
        warmup: steps over which the rate rises from 0 to the optimizer's.

    """

    at: tuple[Share, ...] = (0.5, 0.75)
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    warmup: Annotated[int, Ge(0)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> "StepDecay":
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"at={list(self.at)}: expected shares that rise, e.g. [0.5,0.75]")
        return self

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor of the rate at a step of a training of so many steps."""
        warm = (step + 1) / self.warmup if step < self.warmup else 1.0
        return warm * self.gamma ** sum(step >= first_step(share, steps) for share in self.at)


Schedule = Annealed | StepDecay
