"""Gradient flow: the path of gradient descent in the limit of small steps."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import finite, flatten, size, unflatten
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Params, State

COLUMNS = 3
"""Vectors followed to find one eigenvalue."""

LEAST = 1e-20
"""Replaces a rate of 0, at which a schedule may end: [w - w(lr)]/lr is then the gradient."""


@dataclass(frozen=True, config=STRICT)
class Flow(Method):
    """[w - w(lr)]/lr, where dw/dt = -g(w), w(0) = w: SGD of rate lr then walks along the flow.

    g is the gradient of the loss and lr the rate of the step; after k steps the time is k lr. The
    flow is integrated by n classical Runge-Kutta steps of fourth order, n = ceil(lr
    lambda_1/reach), each at most reach/lambda_1 long. They are stable below 2.78/lambda_1. On a
    quadratic, a step of length h multiplies a mode of eigenvalue lambda by exp(-h lambda), with an
    error of about (h lambda)^5/120. The sharpness lambda_1 is found at the first step and updated
    at every ``refresh``-th step.

    This is a baseline for gradient descent at the edge of stability, where descent leaves the flow
    (Cohen et al., ICLR 2021). It is no estimate of the gradient at w (target ``none``).

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> flow = sa.Flow()(bowl, at=sa.Moment(step=0, steps=10, lr=0.5))
    >>> [round(x, 2) for x in flow.grad["w"].tolist()]  # (w - w exp(-2 lr)) / lr
    [1.25, 1.25, 1.25]

    Args:
        reach: length of a Runge-Kutta step times the sharpness, in (0, 2.5]; steps are stable below
            2.78.
        refresh: steps of the training between two measurements of the sharpness.

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = {
        "unbiased": "it is the path of gradient descent over time lr, which bends",
        "scale": "3 times the loss walks 3 times as far along a bent path",
    }
    own_step: ClassVar[bool] = True
    reach: Annotated[float, Gt(0), Le(2.5)] = 2.0
    refresh: Annotated[int, Gt(0)] = 10

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network, which has no gradient to flow along."""
        if structure.quantized:
            raise ValueError(
                f"'{next(iter(structure.quantized))}' is quantized, so the loss is flat almost "
                "everywhere and nothing flows; take the network in full precision (quantizer=fp)"
            )

    def trains(
        self,
        steps: int,
        optimizer: type[torch.optim.Optimizer],
        settings: Mapping[str, Any],
        batch_size: int | None = None,
    ) -> None:
        """Raise ValueError for minibatches and for every optimizer but plain SGD.

        Another optimizer leaves the flow. Minibatches have flows of their own, which share no
        sharpness and are not the flow of the loss.
        """
        changes = [k.replace("_", " ") for k in ("momentum", "weight_decay") if settings.get(k)]
        if steps and (optimizer is not torch.optim.SGD or changes):
            what = changes[0] if optimizer is torch.optim.SGD else optimizer.__name__
            raise ValueError(
                f"optimizer: the flow sets the step itself, and {what} would change it; set "
                "optimizer=sgd optimizer.momentum=0 optimizer.weight_decay=0"
            )
        if steps and batch_size:
            raise ValueError(
                "batch_size: the flow is that of all training rows; set batch_size=null"
            )

    def init(self, params: Params) -> State:
        """Return a state without a sharpness."""
        return {"space": None, "sharpness": math.nan, "age": 0}

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 12 n evals, and 3.9 + 3.6 * 3 more at a refresh."""
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
        if not moves:
            return Estimate(first, unflatten(k1, params), 3.0, after, {})
        if state["age"] % self.refresh == 0:
            hessian = objective.curvature(params)
            spare = min(COLUMNS, size(params)) - 1
            try:
                if state["space"] is None:
                    pairs = hessian.top(1, generator, spare=spare)
                else:
                    pairs = hessian.follow(state["space"], 1)
            except Diverged:  # a NaN gradient, which the loop records as diverged
                lost = unflatten(torch.full_like(start, math.nan), params)
                return Estimate(first, lost, 3.0 + hessian.evals, after, {})
            after |= {"space": pairs.vectors, "sharpness": float(pairs.values[0])}
            spent = hessian.evals
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
