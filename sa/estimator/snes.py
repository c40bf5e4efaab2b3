"""An oracle: the best decrease within a ball that separable NES finds."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _oracle
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class SNES:
    """-d, d the lowest point with |d| <= rho that SNES finds (Schaul, Glasmachers & Schmidhuber).

    Points m + s * z, z ~ N(0, I), of a mean m and a spread s a coordinate (GECCO 2011): with
    utilities u of their ranks, m += s sum u z, s *= exp(eta/2 sum u (z^2 - 1)), eta = (3 + log D)/
    (5 sqrt D). Points, and the mean, outside the trust region are projected onto it. An optimiser
    used as a yardstick: how much of a decrease is there at all (target ``none``). A step of
    learning rate 1 lands on the point; it does not scale with the loss.

    Args:
        rho: radius of the search around the point, in the units of the weights; s starts at 0.3
            rho/sqrt D.
        generations: generations of the search.
        samples: points a generation; null for 4 + floor(3 log D).

    """

    target: ClassVar[str] = "none"
    rho: Annotated[float, Gt(0)] = 0.1
    generations: Annotated[int, Gt(0)] = 200
    samples: Annotated[int, Ge(2)] | None = None

    def init(self, params: Params) -> State:
        """No state: every call searches anew."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Generations times samples, + 1 evals."""
        search = _oracle.Search(objective, params, self.rho)
        w, dim = search.at, max(1, len(search.at))
        n = _oracle.population(self.samples, dim)
        u, eta = _oracle.utilities(n, w), (3 + math.log(dim)) / (5 * math.sqrt(dim))
        m, s = torch.zeros_like(w), torch.full_like(w, 0.3 * self.rho / math.sqrt(dim))
        for _ in range(self.generations):
            z = torch.randn(n, len(w), generator=generator, dtype=w.dtype, device=w.device)
            z = z[search(m + s * z)]
            if not search.sound:  # no order to learn from
                continue
            m = search.inside(m + s * (u @ z))
            s = s * torch.exp(eta / 2 * (u @ (z.square() - 1)))
        return search.estimate()
