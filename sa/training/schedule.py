"""The learning rate over a training, as a factor of the optimizer's own: a function of the step.

A schedule has no state, so that going on from a checkpoint needs nothing of it. A warm-up of n
steps multiplies what follows by (step + 1)/n; the schedule's own course starts after it.
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
    """From 1 to ``end`` over the steps after the warm-up: in a line, or along half a cosine.

    The cosine is SGDR's without restarts (Loshchilov & Hutter, ICLR 2017). end = 1 stays constant.

    >>> [Annealed("cosine")(step, 4) for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]

    Args:
        shape: of the fall: in a line, or along half a cosine.
        end: rate at the end, as a share of the optimizer's.
        warmup: steps over which the rate rises from 0 to the optimizer's.

    """

    shape: Literal["linear", "cosine"] = "linear"
    end: Annotated[float, Ge(0), Le(1)] = 0.0
    warmup: Annotated[int, Ge(0)] = 0

    def __call__(self, step: int, steps: int) -> float:
        """The factor of one step of a training of so many."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        x = (step - self.warmup) / max(1, steps - self.warmup)
        fallen = x if self.shape == "linear" else (1 - math.cos(math.pi * x)) / 2
        return 1 - (1 - self.end) * fallen


@dataclass(frozen=True, config=STRICT)
class StepDecay:
    """Times ``gamma`` at each of ``at``, shares of the training: the classical step schedule.

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
        """The factor of one step of a training of so many."""
        warm = (step + 1) / self.warmup if step < self.warmup else 1.0
        return warm * self.gamma ** sum(step >= first_step(share, steps) for share in self.at)


Schedule = Annealed | StepDecay
