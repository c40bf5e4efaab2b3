"""The quality of an estimator at equal cost, in forward-equivalents and in seconds."""

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.analysis._line import cosine, descend
from sa.objective.objective import Objective
from sa.params import flatten, size
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Efficiency:
    """The mean of as many estimates as a budget buys, at least one, for 1, 2, 4, ... calls.

    Curves over ``calls``: ``evals``; ``seconds``; ``cosine`` to the reference; ``decrease``, the
    best along the mean estimate, relative to the loss; ``heldout``, that of the held-out data at
    the same lr.

    Numbers at the budget of evals: ``at_evals/calls``, ``/cosine``, ``/decrease``, ``/heldout``
    and ``/n_eff`` D c^2/(1 - c^2), the number of random directions that give the cosine c on a
    linear loss. The same numbers for the budget of seconds stand under ``at_seconds/``. ``over`` is
    1 if one call costs more than the budget of evals.

    Estimates that are not finite cost their evals and are left out of the mean. ``nonfinite``
    counts them; ``diverged`` is 1 if no estimate is finite.

    Args:
        estimator: estimator that the run studies.
        reference: estimator of the true gradient, for the cosine.
        evals: budget in forward-equivalents.
        seconds: budget in wall time of the estimator alone; depends on the machine.
        most: largest number of calls. An estimator that returns the same estimate twice is called
            only once.

    """

    estimator: Estimator
    reference: Estimator
    evals: Annotated[float, Gt(0)] = 5000
    seconds: Annotated[float, Gt(0)] = 0.2
    most: Annotated[int, Gt(0)] = 256

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``efficiency/``."""
        truth = flatten(objective.reference(self.reference, params, at))
        total, first, state = torch.zeros_like(truth), None, estimate.state
        evals = seconds = 0.0
        sound = 0
        rows: list[dict[str, float]] = []
        for calls in range(1, self.most + 1):
            began = time.perf_counter()
            one = self.estimator(objective, params, state, generator, at)
            spent, grad = time.perf_counter() - began, flatten(one.grad)
            within = evals + one.evals <= self.evals or seconds + spent <= self.seconds
            if calls > 1 and (not within or torch.equal(grad, first)):  # type: ignore[arg-type]
                break
            first, state = grad if first is None else first, one.state
            if grad.isfinite().all():
                total, sound = total + grad, sound + 1
            evals, seconds = evals + one.evals, seconds + spent
            along = total if sound else grad
            now = {"calls": float(calls), "evals": evals, "seconds": seconds}
            if calls & (calls - 1) == 0:  # calls is a power of two
                rows.append(now | self._worth(objective, params, along, truth))
        if rows[-1]["calls"] < now["calls"]:
            rows.append(now | self._worth(objective, params, along, truth))
        out: Numbers = {k: [r[k] for r in rows] for k in rows[0]}
        for key, budget in (("evals", self.evals), ("seconds", self.seconds)):
            bought = [r for r in rows if r[key] <= budget] or rows[:1]
            last = {k: v for k, v in bought[-1].items() if k not in ("evals", "seconds")}
            c2 = last["cosine"] ** 2
            last["n_eff"] = math.inf if c2 >= 1 - 1e-9 else size(params) * c2 / (1 - c2)
            out |= {f"at_{key}/{k}": v for k, v in last.items()}
        out["over"] = float(rows[0]["evals"] > self.evals)
        out |= {"nonfinite": now["calls"] - sound, "diverged": float(not sound)}
        return {f"efficiency/{k}": v for k, v in out.items()}

    def _worth(
        self, objective: Objective, params: Params, along: torch.Tensor, truth: torch.Tensor
    ) -> dict[str, float]:
        """Return the cosine and the best decreases along a mean estimate."""
        value = float(objective.value(params))
        lrs = torch.logspace(-3, 1, 41, dtype=torch.float64)
        best, _, held = descend(objective, params, along, value, lrs)
        worth = {"cosine": cosine(along, truth), "decrease": best / value if value else best}
        return worth if held is None else worth | {"heldout": held / value if value else held}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the calls, cosine and decrease at the budget of evals, in words."""
        keys = [f"efficiency/at_evals/{k}" for k in ("calls", "cosine", "decrease")]
        if keys[1] not in result:
            return []
        calls, cosine, decrease = (number(result[k]) for k in keys)
        over = "; ONE CALL IS ABOVE THE BUDGET" if result["efficiency/over"] else ""
        text = f"{calls} calls: cosine {cosine}, decrease {decrease} of the loss{over}"
        return [("equal evals", text)]
