"""One-sided differences along every coordinate: half the cost of central ones, but biased."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _finite, _scale
from sa.estimator._base import Laws, Method
from sa.objective.objective import Objective
from sa.params import ranges, size
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State

CHUNK = 64
"""Coordinates moved at once; bounds the memory."""


@dataclass(frozen=True, config=STRICT)
class FiniteDifference(Method):
    """[f(w + eps e_i) - f(w)] / eps for every i, or [f(w) - f(w - eps e_i)] / eps (Blum 1954).

    Component i is exactly the derivative of the loss smoothed over a one-sided box, w_i + [0, eps]
    or w_i + [-eps, 0] (target ``box``). This is CDG with half-width eps/2 around w_i +- eps/2. So
    the bias for the loss at w is +-(eps/2) d^2f/dw_i^2 + O(eps^2). On a quadratic it is exactly
    +-eps H_ii/2, and central differences have no bias. It needs D + 1 losses instead of 2D. There
    is no sampling variance. Losses are computed in the dtype of the point.

    A coordinate whose difference is not finite is 0 and counted in ``nonfinite``.

    Paper: Blum, "Multidimensional stochastic approximation methods", Annals of Mathematical
    Statistics, 1954.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.FiniteDifference(epsilon=0.5)(bowl).grad["w"]  # 2 w + epsilon
    tensor([2.5000, 2.5000, 2.5000])

    Args:
        epsilon: size of the difference, in the units of the weights.
        side: ``forward`` uses f(w + eps e_i), ``backward`` uses f(w - eps e_i).

    """

    target: ClassVar[str] = "box"
    laws: ClassVar[Laws] = {
        "unbiased": "a one-sided difference is off by half of epsilon times the curvature"
    }
    epsilon: Annotated[float, Gt(0)] = 0.1
    side: Literal["forward", "backward"] = "forward"

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in D + 1 evals; draws nothing."""
        _scale.require("epsilon", self.epsilon, params, at)
        value, flat, grad = objective.value(params), 0, {}
        move = self.epsilon if self.side == "forward" else -self.epsilon
        for name, p in params.items():
            out = torch.empty(p.numel(), dtype=torch.float64, device=p.device)
            for start, stop in ranges(p.numel(), CHUNK):
                index = torch.arange(start, stop, device=p.device)
                moved = p.flatten().repeat(stop - start, 1)
                # set the value: (w + eps) - eps is not exactly w
                moved[index - start, index] = p.flatten()[index] + move
                losses = objective.values({name: moved.view(-1, *p.shape)}, params)
                out[start:stop] = (losses - value) / move
            flat += int((out == 0).sum())
            grad[name] = out.view(p.shape).to(p.dtype)
        dim = size(params)
        grad, left_out = _finite.coordinates(grad)
        info = {"flat": flat / max(1, dim)} | _finite.counted(left_out)
        return Estimate(value, grad, dim + 1.0, info=info)
