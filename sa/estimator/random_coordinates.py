"""Central differences along coordinates drawn at random: a CDG for large D."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _scale
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import flatten, ranges, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class RandomCoordinates(Method):
    """(D/k) sum_{i in S} [f(w + eps e_i) - f(w - eps e_i)]/(2 eps) e_i (Nesterov 2012).

    S is a set of k of the D coordinates, drawn anew without replacement. The estimate is unbiased
    for the CDG (target ``box``), and equal to it at k = D. The relative variance is D/k - 1 and the
    expected cosine is sqrt(k/D), for every loss.

    A coordinate whose difference is not finite is 0 and counted in ``nonfinite``.

    Paper: Nesterov, "Efficiency of coordinate descent methods on huge-scale optimization problems",
    SIAM Journal on Optimization, 2012.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.RandomCoordinates(samples=1)(bowl, seed=0)
    >>> got.evals, got.grad["w"].count_nonzero().item()
    (3.0, 1)

    Args:
        epsilon: half-width of the difference, in the units of the weights.
        samples: k, coordinates a call; all D if there are fewer (``coordinates`` in the row).

    """

    target: ClassVar[str] = "box"
    epsilon: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 50

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2k + 1 evals."""
        _scale.require("epsilon", self.epsilon, params, at)
        dim, w = size(params), flatten(params)
        k = min(self.samples, dim)
        chosen = torch.randperm(dim, generator=generator, device=w.device)[:k]
        grad = torch.zeros_like(w)
        for start, stop in ranges(k, _directions.CHUNK):
            some = chosen[start:stop]
            points = w.expand(2, len(some), -1).clone()
            each = torch.arange(len(some), device=w.device)
            points[0, each, some] = w[some] + self.epsilon
            points[1, each, some] = w[some] - self.epsilon
            up, down = (_directions.losses(objective, params, x) for x in points)
            grad[some] = ((up - down) / (2 * self.epsilon) * (dim / k)).to(w.dtype)
        checked, left_out = _finite.coordinates({"chosen": grad[chosen]})
        grad[chosen] = checked["chosen"]
        info = {"coordinates": float(k), "cosine_expected": (k / max(1, dim)) ** 0.5}
        info |= _finite.counted(left_out)
        value = objective.value(params)
        return Estimate(value, unflatten(grad, params), 2.0 * k + 1, info={**info})
