"""Norms of the gradient along a training, over all rows and over the batch, by tensor."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.analysis._line import cosine
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Diverged, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class GradientNorm:
    """Norm |g| of the run's estimator over all rows (``full``) and over the batch (``batch``).

    - ``full/<tensor>`` and ``batch/<tensor>``: the norms of each tensor
    - ``update`` lr |g|/|w|: the relative length of a plain gradient step on the batch
    - ``successive``: the cosine of the batch's gradients before and after this step; -1 if the step
      bounces
    - ``lambda_max``: the largest eigenvalue of the Hessian over all rows, for networks without
      quantizers; ``diverged`` is 1 if it is not finite
    - ``edge`` 2/lr, above which gradient descent is not stable (Cohen et al., ICLR 2021), and
      ``of_edge``, lambda_max/edge

    Args:
        estimator: estimator that the run studies.
        lr: rate of the step, for ``update``, ``successive`` and ``edge``; null for none of them.
        curvature: true computes ``lambda_max`` if nothing is quantized.

    """

    estimator: Estimator
    lr: Annotated[float, Gt(0)] | None = None
    curvature: bool = True

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``gradient_norm/``."""
        whole, grad = objective.whole, estimate.grad
        state = self.estimator.init(params)
        full = grad
        if whole is not None:
            full = self.estimator(whole, params, state, generator, at).grad
        out: Numbers = {}
        for which, gs in (("full", full), ("batch", grad)):
            out[which] = float(flatten(gs).double().norm())
            out |= {f"{which}/{k}": float(g.double().norm()) for k, g in gs.items()}
        if self.lr is not None:
            w, g = flatten(params).detach(), flatten(grad)
            length = float(w.double().norm())
            out["update"] = self.lr * float(g.double().norm()) / length if length else float("nan")
            there = unflatten(w - self.lr * g, params)
            after = self.estimator(objective, there, state, generator, at).grad
            out["successive"] = cosine(g, flatten(after))
            out["edge"] = 2 / self.lr
        if self.curvature and not objective.structure.hard:
            try:
                sharp = float(objective.curvature(params).top(1, generator).values[0])
            except Diverged:
                sharp = math.nan
            out |= {"lambda_max": sharp, "diverged": float(math.isnan(sharp))}
            if self.lr is not None:
                out["of_edge"] = sharp * self.lr / 2
        return {f"gradient_norm/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return both norms and the largest eigenvalue in words."""
        one = {k: result.get(f"gradient_norm/{k}") for k in ("full", "batch", "lambda_max", "edge")}
        if "gradient_norm/full" not in result:
            return []
        text = f"{number(one['full'])} of all rows, {number(one['batch'])} of the batch"
        if "gradient_norm/lambda_max" in result:
            text += f"; lambda_max {number(one['lambda_max'])}"
            text += f", 2/lr {number(one['edge'])}" if "gradient_norm/edge" in result else ""
        return [("gradient", text)]
