"""Means of a point's coordinates, for losses that are a formula of the point."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.objective.objective import Objective
from sa.params import flatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Coordinates:
    """Means over every ``period``-th coordinate of the point: ``mean/1``, ..., ``mean/period``.

    With period=2 and Rosenbrock's pairs (x, y), ``mean/1`` is the mean of all x and ``mean/2`` that
    of all y. ``spread/1``, ... are the standard deviations of the same coordinates.

    Args:
        period: how many coordinates repeat; D has to be a multiple of it.

    """

    period: Annotated[int, Gt(0)] = 2

    def fits(self, params: Params, memory: int = 0) -> None:
        """Raise ValueError if the number of coordinates is no multiple of the period."""
        dim = len(flatten(params))
        if dim % self.period:
            raise ValueError(
                f"period={self.period}: the point has {dim} coordinates, which is no multiple of "
                "it; set e.g. period=1"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``coordinates/``."""
        each = flatten(params).double().view(-1, self.period)  # (D / period, period)
        mean, spread = each.mean(0), each.std(0, correction=0)
        out: Numbers = {f"coordinates/mean/{i}": float(m) for i, m in enumerate(mean, 1)}
        return out | {f"coordinates/spread/{i}": float(s) for i, s in enumerate(spread, 1)}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the means in words."""
        if "coordinates/mean/1" not in result:
            return []
        means = (number(result[f"coordinates/mean/{i}"]) for i in range(1, self.period + 1))
        return [("coordinates", f"{', '.join(means)} in the mean")]
