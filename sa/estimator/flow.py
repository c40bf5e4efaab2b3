"""Gradient flow: what descent by ever smaller steps would follow."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import finite, flatten, size, unflatten
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Params, State

COLUMNS = 3
"""Vectors followed for the one eigenvalue that is wanted."""

LEAST = 1e-20
"""What stands for a rate of 0, where a schedule may end: there [w - w(lr)]/lr is the gradient."""


@dataclass(frozen=True, config=STRICT)
class Flow:
    """[w - w(lr)]/lr, where dw/dt = -g(w), w(0) = w: SGD of rate lr then walks along the flow.

    g is the loss' gradient and lr the rate of the step, whose number times lr is the time. By n
    classical Runge-Kutta steps of fourth order, n = ceil(lr lambda_1/reach), each at most
    reach/lambda_1 long. They are stable below 2.78; on a quadratic one of length h moves a mode of
    eigenvalue lambda by exp(-h lambda) up to (h lambda)^5/120, and w(lr) is as near as n of those.
    The sharpness lambda_1 is found at the first step and followed at every ``refresh``-th.

    Used beside descent at the edge of stability, which leaves it there (Cohen et al. 2021).

    Args:
        reach: length of a Runge-Kutta step times the sharpness; steps are stable below 2.78.
        refresh: steps of the training between two measurements of the sharpness.

    """

    target: ClassVar[str] = "none"
    own_step: ClassVar[bool] = True
    reach: Annotated[float, Gt(0), Le(2.5)] = 2.0
    refresh: Annotated[int, Gt(0)] = 10

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network, which has no gradient to flow along."""
        if structure.quantized:
            raise ValueError(
                f"'{next(iter(structure.quantized))}' is quantized: the loss is flat almost "
                "everywhere and nothing flows; take the network in full precision (quantizer=fp)"
            )

    def trains(
        self, steps: int, optimizer: str, settings: Mapping[str, Any], batch_size: int | None = None
    ) -> None:
        """Raise ValueError where the optimizer would not go where the flow went, or of minibatches.

        Their flows have no sharpness in common, nor are they the flow of the loss.
        """
        changes = [k.replace("_", " ") for k in ("momentum", "weight_decay") if settings.get(k)]
        if steps and (optimizer != "SGD" or changes):
            what = changes[0] if optimizer == "SGD" else optimizer
            raise ValueError(
                f"optimizer: a step of rate lr is the flow's own, which {what} would change; "
                "set optimizer=sgd optimizer.momentum=0 optimizer.weight_decay=0"
            )
        if steps and batch_size:
            raise ValueError("batch_size: the flow is of all training rows; set batch_size=null")

    def init(self, params: Params) -> State:
        """No sharpness yet."""
        return {"space": None, "sharpness": math.nan, "age": 0}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """12 n, four gradients each; where the sharpness is renewed 3.9 + 3.6 * 3 more."""
        if at.lr is None:
            raise ValueError(
                "the rate of the step is not known: the flow needs a training; set steps"
            )
        lr = max(at.lr, LEAST)
        after = dict(state)
        spent, start = 0.0, flatten(params)

        def gradient(w: Tensor) -> tuple[Tensor, Tensor]:
            value, grad = objective.value_and_grad(unflatten(w, params), generator=generator)
            return value, flatten(grad)

        first, k1 = gradient(start)
        moves = len(start) and first.isfinite() and finite({"w": start, "g": k1})
        if not moves:  # there is nothing to follow
            return Estimate(first, unflatten(k1, params), 3.0, after, {})
        if state["age"] % self.refresh == 0:
            seen = objective.curvature(params)
            space = state["space"]
            most = min(COLUMNS, size(params))
            try:
                cold = space is None
                got = seen.top(1, generator, spare=most - 1) if cold else seen.follow(space, 1)
            except Diverged:  # a NaN gradient, which the loop records as diverged
                lost = unflatten(torch.full_like(start, math.nan), params)
                return Estimate(first, lost, 3.0 + seen.evals, after, {})
            after |= {"space": got.vectors, "sharpness": float(got.values[0])}
            spent = seen.evals
        after["age"] += 1
        n = max(1, math.ceil(lr * after["sharpness"] / self.reach))
        h, moved = lr / n, torch.zeros_like(start)
        for step in range(n):
            w = start + moved
            if step:
                _, k1 = gradient(w)
            k2 = gradient(w - h / 2 * k1)[1]
            k3 = gradient(w - h / 2 * k2)[1]
            k4 = gradient(w - h * k3)[1]
            moved -= h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        info = {"sharpness": after["sharpness"], "inner": float(n)}
        return Estimate(first, unflatten(-moved / lr, params), 12.0 * n + spent, after, info)
