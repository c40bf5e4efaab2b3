"""The forward gradient: exact slopes along random directions, by forward-mode differentiation."""

import math
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa import surrogate
from sa.estimator import _directions, _finite, _slopes
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class ForwardGradient(Method):
    """(1/N) sum_n (grad f . v_n) v_n, v ~ N(0, I), slopes by jvp (Baydin et al. 2022).

    It is unbiased for grad f (target ``true``), which is zero for the parameters before the last
    step of a sign network. It needs no smoothing, no backward pass and no stored activations. With
    a ``surrogate`` slope it is unbiased for the gradient of that straight-through estimator (target
    ``surrogate``). It has no step size, so the law of a linear loss holds on every loss: the
    relative variance is (D + 1)/N, and the expected cosine with the gradient that it estimates is
    sqrt(N/(N + D + 1)).

    Paper: Baydin et al., "Gradients without backpropagation", arXiv 2202.08587, 2022.

    >>> from sa.objective.function import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5])}
    >>> float(ForwardGradient()(f, at, {}, torch.Generator()).grad["w"])
    0.0

    Args:
        samples: N, random directions a call; 1 in Baydin et al. 2022.
        surrogate: slope used in place of the derivative of a step; null keeps that derivative, 0.
        scale: the slope's c, k or beta, as in `ste`; null for its usual value.

    """

    samples: Annotated[int, Gt(0)] = 1
    surrogate: Literal["identity", "clipped", "tanh", "poly", "swish"] | None = None
    scale: Annotated[float, Gt(0)] | None = None

    @property
    def target(self) -> str:
        """Return the target: ``true``, or ``surrogate`` with a slope."""
        return "true" if self.surrogate is None else "surrogate"

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if gradients are quantized: forward mode back-propagates nothing."""
        if structure.gradients:
            raise ValueError(
                "forward_gradient back-propagates nothing, so quantizer.gradient has no effect; "
                "set quantizer/gradient=none, or take estimator=ste"
            )

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in N + 1 evals: 1 for each direction and 1 for the loss."""
        dim, w, n = size(params), flatten(params), self.samples
        total, sound = torch.zeros_like(w), 0
        rule = None if self.surrogate is None else _slopes.rule(self.surrogate, self.scale)
        with nullcontext() if rule is None else surrogate.backward(rule):
            for v in _directions.gaussian(n, dim, generator, w):
                along = objective.directional(params, unflatten(v, params)).to(w.dtype)
                slope, ok = _finite.sound(along)
                total, sound = total + slope @ v, sound + int(ok.sum())
        law = math.sqrt(n / (n + dim + 1))
        return Estimate(
            objective.value(params), unflatten(_finite.mean(total, sound), params), n + 1.0,
            info={"cosine_expected": law} | _finite.counted(n - sound),
        )  # fmt: skip
