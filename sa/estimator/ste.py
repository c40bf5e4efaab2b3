"""Straight-through estimators: a chosen slope replaces the zero derivative of every step."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa import surrogate
from sa.estimator import _slopes
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class STE(Method):
    """dL/da = m(a) dL/ds for every step s of a (Hinton 2012; Bengio, Leonard & Courville 2013).

    The slopes by name, with the meaning of ``scale`` and its usual value:

    - no scale: ``identity`` 1; ``relu`` 1[a > 0]; ``clipped_relu`` 1[0 < a < 1]
    - scale is the half-width of the window: ``clipped`` (1), ``steep`` of height 2 (0.5), ``poly``
      (1)
    - scale is the steepness: ``tanh`` (1), ``sigmoid`` (1), ``swish`` (5), ``dspike`` (3), ``atan``
      (2), ``fast_sigmoid`` (25); for ``dsq`` (0.4) it is alpha < 1, and a small one is steep
    - scale is the last value of a schedule: ``ede`` (t to 10), ``reste`` (o to 3)

    A schedule follows the share of the training that is done.

    It takes one forward and one backward pass. It has no variance, and its bias is unknown: no loss
    has this gradient (target ``surrogate``). For the layers after the last step it is exact.

    Papers: Hinton, lectures, 2012; Bengio, Leonard & Courville, "Estimating or propagating
    gradients through stochastic neurons", arXiv 1308.3432, 2013. Each slope names its own paper
    where it is defined.

    >>> from sa.objective.function import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5, -3.0])}
    >>> STE("clipped")(f, at, {}, torch.Generator()).grad["w"]
    tensor([1., 0.])

    Args:
        surrogate: name of the multiplier m, which is as published.
        scale: the number of m, > 0, see above; null for the value in brackets.

    """

    target: ClassVar[str] = "surrogate"
    one_backward: ClassVar[bool] = True
    surrogate: _slopes.Name = "identity"
    scale: Annotated[float, Gt(0)] | None = None

    @model_validator(mode="after")
    def _meaningful(self) -> "STE":
        _slopes.rule(self.surrogate, self.scale)
        return self

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 1F + 1B: 3 evals.

        It draws nothing but the noise of random gradient quantizers.
        """
        rule = _slopes.rule(self.surrogate, self.scale, at.progress)
        with surrogate.backward(rule):
            value, grad = objective.value_and_grad(params, generator=generator)
        return Estimate(value, grad, 3.0)
