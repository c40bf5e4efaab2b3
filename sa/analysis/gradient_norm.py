"""How long the gradient is along a training: of all rows and of the batch, layer by layer."""

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
    """|g| of the run's estimator over all rows, ``full``, and of the batch, ``batch``.

    ``full/<tensor>``, ``batch/<tensor>``: of each tensor. With the step's rate lr: ``update`` lr
    |g|/|w|, the relative length of a plain gradient step of the batch; ``successive`` the cosine
    of the batch's gradient with that after this step, -1 where it bounces; ``lambda_max`` of the
    Hessian over all rows, and ``of_edge`` its share of ``edge``, 2/lr, above which gradient
    descent cannot stay (Cohen et al. 2021).

    Args:
        estimator: the estimator that the run studies.
        lr: rate of the step, for ``update``, ``successive`` and ``edge``; null for none of them.
        curvature: whether to compute ``lambda_max``, where nothing is quantized.

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
        mine: Any = self.estimator
        state = mine.init(params)
        full = grad
        if whole is not None:
            full = mine(whole, params, state, generator, at).grad
        out: Numbers = {}
        for which, gs in (("full", full), ("batch", grad)):
            out[which] = float(flatten(gs).double().norm())
            out |= {f"{which}/{k}": float(g.double().norm()) for k, g in gs.items()}
        if self.lr is not None:
            w, g = flatten(params).detach(), flatten(grad)
            length = float(w.double().norm())
            out["update"] = self.lr * float(g.double().norm()) / length if length else float("nan")
            there = unflatten(w - self.lr * g, params)
            after = mine(objective, there, state, generator, at).grad
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

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return both norms, and how sharp the loss is, in words."""
        got = {k: result.get(f"gradient_norm/{k}") for k in ("full", "batch", "lambda_max", "edge")}
        if "gradient_norm/full" not in result:
            return []
        words = f"{number(got['full'])} of all rows, {number(got['batch'])} of the batch"
        if "gradient_norm/lambda_max" in result:
            words += f"; lambda_max {number(got['lambda_max'])}"
            words += f", 2/lr {number(got['edge'])}" if "gradient_norm/edge" in result else ""
        return [("gradient", words)]
