"""How much of a gradient is exactly zero."""

from dataclasses import dataclass
from typing import Any

import torch

from sa.params import flatten
from sa.types import PROBE, Estimate, Moment, Numbers, Params


@dataclass(frozen=True)
class FlatShare:
    """The share of the coordinates whose estimate is exactly 0."""

    def __call__(
        self,
        objective: Any,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return ``flat_share/share``."""
        return {"flat_share/share": float((flatten(estimate.grad) == 0).double().mean())}
