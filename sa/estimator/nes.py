"""Natural evolution strategies: the gradient of the gaussian-smoothed loss from loss values."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions
from sa.types import STRICT, Estimate, Objective, Params, State, flatten, size, unflatten


@dataclass(frozen=True, config=STRICT)
class NES:
    """(1/(N sigma)) sum_n f(w + sigma e_n) e_n, e ~ N(0, I) (Wierstra 2008; Salimans et al. 2017).

    Unbiased for the gradient of f_sigma(w) = E f(w + sigma e). Variants:

    antithetic (default): (1/(2 N sigma)) sum (f(w + sigma e) - f(w - sigma e)) e over N pairs. On a
    linear loss the relative variance is (D + 1)/N and the expected cosine sqrt(N/(N + D + 1)).
    baseline (not antithetic): ``none`` (a negative control: its variance carries f(w)^2 D/sigma^2),
    ``loss`` subtracts f(w), ``mean`` the sample mean times N/(N - 1), which is the leave-one-out
    baseline exactly. orthogonal: directions of length sqrt(D), orthogonal in blocks of D.
    They estimate another gradient, that of f smoothed over the ball of radius sigma sqrt(D) (target
    ``ball``), which tends to the gaussian one as D grows; on a linear loss cosine sqrt(N/D), exact
    at N = D.

    sigma: > 0, in the units of the weights. samples: N; pairs where antithetic.
    """

    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    antithetic: bool = True
    baseline: Literal["none", "loss", "mean"] = "none"
    orthogonal: bool = False

    @model_validator(mode="after")
    def _meaningful(self) -> "NES":
        if self.antithetic and self.baseline != "none":
            raise ValueError(
                f"baseline={self.baseline} cancels in antithetic pairs; set antithetic=false or "
                "baseline=none"
            )
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline=mean needs samples >= 2")
        return self

    @property
    def target(self) -> str:
        """What it estimates: ``gaussian``, or ``ball`` with orthogonal directions."""
        return "ball" if self.orthogonal else "gaussian"

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self, objective: Objective, params: Params, state: State, generator: torch.Generator
    ) -> Estimate:
        """2N + 1 evals antithetic, else N + 1. Memory holds one block of directions."""
        dim, w = size(params), flatten(params)
        value = objective.value(params)
        draw = _directions.orthogonal if self.orthogonal else _directions.gaussian
        total, plain = torch.zeros_like(w), torch.zeros_like(w)  # sums of loss * e and of e
        seen = 0.0  # sum of losses
        for e in draw(self.samples, dim, generator, w):
            up = self._losses(objective, params, w + self.sigma * e)
            if self.antithetic:
                up = (up - self._losses(objective, params, w - self.sigma * e)) / 2
            elif self.baseline != "none":  # for the mean baseline this only saves digits
                up = up - value
            total += up.to(w.dtype) @ e
            plain += e.sum(0)
            seen += float(up.sum())
        n = self.samples
        if self.baseline == "mean":  # sum (f - mean) e / (N - 1) = the leave-one-out estimate
            total = (total - seen / n * plain) * (n / (n - 1))
        grad = unflatten(total / (n * self.sigma), params)
        evals = (2 if self.antithetic else 1) * n + 1
        return Estimate(value, grad, float(evals), info=self._law(dim))

    def _losses(self, objective: Objective, params: Params, points: Tensor) -> Tensor:
        return objective.values(unflatten(points, params))

    def _law(self, dim: int) -> dict[str, float | str | list[float]]:
        """The cosine a linear loss would give, where a law is known without the loss' scale."""
        if not self.antithetic:
            return {}
        n = self.samples
        if self.orthogonal:
            return {"cosine_expected": math.sqrt(min(n, dim) / dim)} if n <= dim else {}
        return {"cosine_expected": math.sqrt(n / (n + dim + 1))}
