"""A goal that ends a training when a score stops improving."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.types import STRICT, State

_SCORE = re.compile(r"((ema|swa)/)?(train|test)/(loss|accuracy)")


def scored(name: str) -> None:
    """Raise ValueError for a name that is no score of an evaluation."""
    if not _SCORE.fullmatch(name):
        raise ValueError(
            f"'{name}' is no goal; expected train/loss, test/loss, train/accuracy or "
            "test/accuracy, of an average with ema/ or swa/ before, and a number; or plateau"
        )


@dataclass(frozen=True, config=STRICT)
class Plateau:
    """Ends a training after ``patience`` evaluations in a row without an improvement of ``of``.

    An evaluation improves if its score is better than the best one so far by more than ``least``
    times that. The best one changes only then, so that small improvements add up.

    Args:
        of: the score: train/loss, test/loss, train/accuracy or test/accuracy, of averaged weights
            with ema/ or swa/ before it.
        patience: evaluations without an improvement that end the training.
        least: least relative improvement that counts, such as 0.001.

    """

    of: str
    patience: Annotated[int, Gt(0)]
    least: Annotated[float, Ge(0)]

    @model_validator(mode="after")
    def _scored(self) -> "Plateau":
        scored(self.of)
        return self

    def look(self, state: State, row: Mapping[str, Any]) -> State:
        """Return the state after one more evaluation: the best score, and evaluations since."""
        score = float(row[self.of])
        if not state:
            return {"best": score, "since": 0}
        gain = state["best"] - score if self.of.endswith("loss") else score - state["best"]
        if gain > self.least * abs(state["best"]) or state["best"] != state["best"]:
            return {"best": score, "since": 0}
        return {"best": state["best"], "since": state["since"] + 1}

    def reached(self, state: State) -> str | None:
        """Return why the training ends, in words; None if it goes on."""
        if not state or state["since"] < self.patience:
            return None
        return f"plateau: {self.of} at {state['best']:.4g} for {self.patience} evaluations"
