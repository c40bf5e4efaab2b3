"""Self-guided evolution strategies: a search guided by its own recent estimates."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _guide
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class SGES(Method):
    """beta/(2 P sigma^2) sum (f(w + e) - f(w - e)) e (SGES, Liu, Li & Qian, IJCAI 2020).

    A pair is drawn with probability alpha from the span of the last k *estimates*, e ~ N(0,
    (sigma^2/k) U U'), else from the whole space, e ~ N(0, (sigma^2/D) I). Both have root mean
    square length sigma. On a locally linear loss with gradient g the mean is beta S g, S =
    (alpha/k) U U' + ((1 - alpha)/D) I. So it is biased, as for guided ES (target ``none``). beta =
    1/(alpha/k + (1 - alpha)/D) makes it g within the subspace. The first k calls are plain
    evolution strategies, which are unbiased. ``subspace`` is how many of the k estimates are
    independent, at most D.

    After each call alpha is multiplied by ``rate`` if the better points of the pairs from the
    subspace have the lower mean loss, else divided by it, and clamped to [``low``, ``high``].

    This follows the authors' code (github.com/IJCAI2020-SGES/SGES): its exploring pairs are drawn
    from the whole space, but summaries of the paper name the complement of the subspace. The
    defaults are those of its control tasks. Two parts of its optimiser are left out: the division
    of the losses by their standard deviation, and the selection of the best pairs.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.SGES(samples=5)(bowl, seed=0).evals
    11.0

    Args:
        sigma: root mean square length of a displacement, in the units of the weights; not the size
            of one coordinate.
        samples: P, antithetic pairs a call.
        k: earlier estimates remembered, the dimension of the subspace.
        alpha: first probability of a pair from the subspace, from low to high.
        rate: factor by which alpha rises or falls after each call, above 1.
        low: least value of alpha, in [0, 1].
        high: largest value of alpha, in [0, 1].

    """

    target: ClassVar[str] = "none"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 50
    k: Annotated[int, Gt(0)] = 12
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    rate: Annotated[float, Gt(1)] = 1.05
    low: Annotated[float, Ge(0), Le(1)] = 0.1
    high: Annotated[float, Ge(0), Le(1)] = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> "SGES":
        if not self.low <= self.alpha <= self.high:
            raise ValueError(
                f"alpha={self.alpha}: expected a number from low={self.low} to high={self.high}"
            )
        return self

    def init(self, params: Params) -> State:
        """Return a state without estimates and with the first alpha."""
        return {"recent": flatten(params).new_zeros(0, size(params)), "alpha": self.alpha}

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2P + 1 evals."""
        state = self.init(params) | state
        w, dim, trust = flatten(params), size(params), float(state["alpha"])
        ready = len(state["recent"]) >= self.k
        basis = _guide.orthonormal(state["recent"]) if ready else w.new_zeros(0, dim)
        k, alpha = len(basis), trust if len(basis) else 0.0
        total, best, drawn, sound = torch.zeros_like(w), [0.0, 0.0], [0, 0], 0
        root = math.sqrt(max(1, dim))
        for z in _directions.gaussian(self.samples, dim, generator, w):
            inside = torch.rand(len(z), generator=generator, device=w.device) < alpha
            e = z / root
            e[inside] = z[inside] @ basis.T @ basis / math.sqrt(max(k, 1))
            up, down = _guide.pair_losses(objective, params, self.sigma * e)
            gap, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(e.dtype))
            total, sound = total + gap @ e, sound + int(ok.sum())
            for i, these in enumerate((~inside & ok, inside & ok)):
                best[i] += float(torch.minimum(up, down)[these].sum())
                drawn[i] += int(these.sum())
        if all(drawn):
            better = best[1] / drawn[1] < best[0] / drawn[0]
            trust = trust * self.rate if better else trust / self.rate
            trust = min(max(trust, self.low), self.high)
        beta = 1 / (alpha / max(k, 1) + (1 - alpha) / max(1, dim))
        grad = _finite.mean(total * beta, sound)
        after = {"recent": _guide.recent(state, grad, self.k), "alpha": trust}
        return Estimate(
            objective.value(params), unflatten(grad, params), 2.0 * self.samples + 1, after,
            {"alpha": alpha, "subspace": float(k)} | _finite.counted(self.samples - sound),
        )  # fmt: skip
