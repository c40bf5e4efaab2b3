"""Straight-through estimators: back-propagate a chosen slope where the step's own is zero."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa import surrogate
from sa.estimator import _slopes
from sa.types import STRICT, Estimate, Objective, Params, State


@dataclass(frozen=True, config=STRICT)
class STE:
    """dL/da = m(a) dL/ds for every step s of a (Hinton 2012; Bengio, Leonard & Courville 2013).

    surrogate: the multiplier m: ``identity`` 1; ``clipped`` 1[|a| <= scale]; ``tanh``; ``poly``
    (ApproxSign); ``swish`` (SwishSign). scale: its c, k or beta; None for the field's default.
    One forward and one backward, no variance, unknown bias: no loss has this gradient, except that
    of the layers after the last step, where it is exact.

    >>> from sa.objective import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5, -3.0])}
    >>> STE("clipped")(f, at, {}, torch.Generator()).grad["w"]
    tensor([1., 0.])
    """

    target: ClassVar[str] = "surrogate"
    surrogate: Literal["identity", "clipped", "tanh", "poly", "swish"] = "identity"
    scale: Annotated[float, Gt(0)] | None = None

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self, objective: Objective, params: Params, state: State, generator: torch.Generator
    ) -> Estimate:
        """1F + 1B: 3 evals; draws nothing."""
        with surrogate.backward(_slopes.rule(self.surrogate, self.scale)):
            value, grad = objective.value_and_grad(params)
        return Estimate(value, grad, 3.0)
