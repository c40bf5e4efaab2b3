"""A short training by the estimator from the run's point, with a tuned step length."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.objective import divergence
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class Training:
    """Plain gradient descent on the run's batch, w -= lr g/|g_0|, for each lr of a log grid.

    |g_0| is the norm of the estimate at the run's own rate, so lr is the length of the first step
    whatever the scale of the estimator. The rate falls linearly to 0. All trainings use the
    same draws.

    - ``loss``: the lowest final loss; ``lr``: its lr; ``ratio``: its share of the first loss;
      ``heldout``: the held-out loss there
    - ``edge``: 1 if that lr is the first or the last of the grid
    - ``steps``: the steps of each training; ``over``: 1 if one step costs more than the budget
    - ``losses``: the final loss for each lr
    - ``nonfinite``: how many trainings diverged, to a loss that is not finite or is 1000 times its
      reference for three steps (`sa.objective.divergence`). Their loss is infinite and never the
      lowest. ``diverged``: 1 if all diverged, and then the other numbers are NaN

    Args:
        estimator: estimator that the run studies.
        evals: forward-equivalents that one training may spend; a more expensive estimator takes
            fewer steps.
        steps: largest number of steps of one training.
        lr_min: least step length of the grid.
        lr_max: largest step length of the grid.
        points: step lengths of the grid, evenly spaced in their logarithm, 2 or more.
        samples: samples of the estimator in each step, if it has that setting; null for its own.
            Many cheap steps use a budget better than one exact step.

    """

    estimator: Estimator
    evals: Annotated[float, Gt(0)] = 3000
    steps: Annotated[int, Gt(0)] = 50
    lr_min: Annotated[float, Gt(0)] = 0.003
    lr_max: Annotated[float, Gt(0)] = 3.0
    points: Annotated[int, Gt(1)] = 7
    samples: Annotated[int, Gt(0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Training":
        if self.lr_min >= self.lr_max:
            raise ValueError(f"lr_min={self.lr_min} must be below lr_max={self.lr_max}")
        return self

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and a curve under ``training/``."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        low, high = math.log10(self.lr_min), math.log10(self.lr_max)
        lrs = torch.logspace(low, high, self.points, dtype=torch.float64).tolist()
        estimator: Any = self.estimator
        if self.samples is not None and any(f.name == "samples" for f in fields(estimator)):
            estimator = replace(estimator, samples=self.samples)
        generator = torch.Generator(generator.device).manual_seed(seed)
        first = estimator(objective, params, estimator.init(params), generator, at)
        cost, length = first.evals, float(flatten(first.grad).norm())
        steps = max(1, min(self.steps, int(self.evals // cost)))
        runs = [self._descend(estimator, objective, params, seed, lr, steps, length) for lr in lrs]
        best = min(range(len(lrs)), key=lambda i: runs[i][0])
        loss, point = runs[best]
        left_out = sum(x == math.inf for x, _ in runs)
        if left_out == len(runs):
            loss = math.nan
        out: Numbers = {
            "loss": loss,
            "ratio": loss / float(estimate.value) if estimate.value else math.nan,
            "lr": math.nan if left_out == len(runs) else lrs[best],
            "steps": float(steps),
            "over": float(cost > self.evals),
            "edge": float(best in (0, len(lrs) - 1)),
            "losses": [x for x, _ in runs],
            "nonfinite": float(left_out),
            "diverged": float(left_out == len(runs)),
        }
        if objective.heldout is not None:
            out["heldout"] = float(objective.heldout.value(point))
        return {f"training/{k}": v for k, v in out.items()}

    def _descend(
        self,
        estimator: Estimator,
        objective: Objective,
        params: Params,
        seed: int,
        lr: float,
        steps: int,
        length: float,
    ) -> tuple[float, Params]:
        """Return the final loss, infinity if it diverged, and the final point."""
        generator = torch.Generator(objective.batch.inputs.device).manual_seed(seed)
        point, state = params, estimator.init(params)
        if not math.isfinite(length):
            return math.inf, point
        network = objective.evaluation
        constant = network.constant() if network else None
        limit = None if constant is None else divergence.FACTOR
        constant = torch.zeros(1) if constant is None else constant
        watched: State = {}
        for step in range(steps if length else 0):
            rate = lr * (1 - step / steps) / length
            one = estimator(objective, point, state, generator, Moment(step, steps, rate))
            grad, state = flatten(one.grad), one.state
            if not grad.isfinite().all():
                return math.inf, point
            each = one.value.reshape(1).clone
            watched, lost = divergence.look(watched, limit, float(one.value), each, constant)
            if lost:
                return math.inf, point
            point = unflatten(flatten(point) - rate * grad, params)
        loss = float(objective.value(point))
        return loss if math.isfinite(loss) else math.inf, point

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the ratio of losses, the steps and the lr, in words."""
        if "training/ratio" not in result:
            return []
        ratio, steps, lr = (number(result[f"training/{k}"]) for k in ("ratio", "steps", "lr"))
        over = "; ONE STEP IS ABOVE THE BUDGET" if result["training/over"] else ""
        return [("training", f"loss x {ratio} in {steps} steps at lr {lr}{over}")]
