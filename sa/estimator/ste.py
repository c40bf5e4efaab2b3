"""Straight-through estimators: back-propagate a chosen slope where the step's own is zero."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa import surrogate
from sa.estimator import _slopes
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class STE:
    """dL/da = m(a) dL/ds for every step s of a (Hinton 2012; Bengio, Leonard & Courville 2013).

    The slopes by name, with what ``scale`` is and its usual value:

    - no scale: ``identity`` 1; ``relu`` 1[a > 0]; ``clipped_relu`` 1[0 < a < 1]
    - half-width of the window: ``clipped`` (1), ``steep`` of height 2 (0.5), ``poly`` (1)
    - steepness: ``tanh`` (1), ``sigmoid`` (1), ``swish`` (5), ``dspike`` (3), ``atan`` (2),
      ``fast_sigmoid`` (25); ``dsq`` (0.4): alpha < 1, small is steep
    - where its schedule ends: ``ede`` (t to 10), ``reste`` (o to 3)

    A schedule follows ``at.progress``, the share of the training that is done.
    One forward and one backward, no variance, unknown bias: no loss has this gradient, except that
    of the layers after the last step, where it is exact.

    >>> from sa.objective.objective import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5, -3.0])}
    >>> STE("clipped")(f, at, {}, torch.Generator()).grad["w"]
    tensor([1., 0.])

    Args:
        surrogate: the multiplier m, as published.
        scale: the one number of m, see above; null for the value in brackets.

    """

    target: ClassVar[str] = "surrogate"
    surrogate: _slopes.Name = "identity"
    scale: Annotated[float, Gt(0)] | None = None

    @model_validator(mode="after")
    def _meaningful(self) -> "STE":
        _slopes.rule(self.surrogate, self.scale)
        return self

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
        """1F + 1B: 3 evals; draws nothing but the noise of random gradient quantizers."""
        rule = _slopes.rule(self.surrogate, self.scale, at.progress)
        with surrogate.backward(rule):
            value, grad = objective.value_and_grad(params, generator=generator)
        return Estimate(value, grad, 3.0)
