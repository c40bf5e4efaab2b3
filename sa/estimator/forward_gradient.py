"""The forward gradient: exact slopes along random directions, by forward-mode differentiation."""

import math
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa import surrogate
from sa.estimator import _directions, _finite, _slopes
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class ForwardGradient:
    """(1/N) sum_n (grad f . v_n) v_n, v ~ N(0, I), slopes by jvp (Baydin et al. 2022).

    Unbiased for grad f (target ``true``), which is zero before the last step of a sign network; no
    smoothing, no backward, nothing kept. With a ``surrogate`` slope in force it is unbiased for
    the gradient of that STE (target ``surrogate``). Having no step size it obeys the law of a
    linear loss on every loss: relative variance (D + 1)/N, expected cosine sqrt(N/(N + D + 1))
    with the gradient it estimates.

    >>> from sa.objective.objective import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5])}
    >>> float(ForwardGradient()(f, at, {}, torch.Generator()).grad["w"])
    0.0

    Args:
        samples: N, random directions a call; published with 1.
        surrogate: slope used in place of the derivative of a step; null keeps the derivative, 0.
        scale: the slope's c, k or beta, as in `ste`; null for its usual value.

    """

    samples: Annotated[int, Gt(0)] = 1
    surrogate: Literal["identity", "clipped", "tanh", "poly", "swish"] | None = None
    scale: Annotated[float, Gt(0)] | None = None

    @property
    def target(self) -> str:
        """What it estimates: ``true``, or ``surrogate`` with a slope in force."""
        return "true" if self.surrogate is None else "surrogate"

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where gradients are quantized: forward mode back-propagates none."""
        if structure.gradients:
            raise ValueError(
                "it back-propagates nothing, so quantizer.gradient has no effect on it; set "
                "quantizer/gradient=none, or take estimator=ste"
            )

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
        """N + 1 evals: 1 a direction, and the loss."""
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
