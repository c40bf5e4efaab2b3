"""Runs the analyses of one step of a training."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from sa.network.hooks import trait
from sa.params import stream
from sa.types import Analysis, Diverged, Estimate, Moment, Numbers, Params, State


def measure(
    analyses: Mapping[str, Analysis],
    states: State,
    objective: Any,
    params: Params,
    estimate: Estimate,
    at: Moment,
    factor: float,
    *,
    seed: int,
    device: str,
) -> tuple[Numbers, State]:
    """Return the numbers of all analyses, and the new states of those that remember.

    An analysis that finds nothing finite gives ``<analysis>/diverged`` 1, and keeps its state.

    Args:
        analyses: the analyses, by name.
        states: the states of analyses with ``remembers``, by name.
        objective: the loss of this step.
        params: the point.
        estimate: the estimate at the point.
        at: the moment of the training.
        factor: the factor of the schedule; an analysis with a rate uses the rate of this step.
        seed: the seed of the run.
        device: the device of the random numbers.

    """
    row: Numbers = {}
    for name, analysis in analyses.items():
        generator = stream(seed, "analysis", name, at.step, device=device)
        rate: Any = trait(analysis, "lr")
        if factor != 1 and rate:
            analysis = replace(cast(Any, analysis), lr=max(factor * rate, 1e-30))
        try:
            if trait(analysis, "remembers"):
                made = cast(Any, analysis).after(
                    states.get(name, {}), objective, params, estimate, generator, at
                )
                numbers, states = made[0], states | {name: made[1]}
            else:
                numbers = analysis(objective, params, estimate, generator, at)
        except Diverged:  # only this analysis: the others and the training go on
            numbers = {f"{name}/diverged": 1.0}
        row |= numbers
    return row, states
