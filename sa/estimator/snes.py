"""A search by separable NES: the best decrease that it finds in a ball."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _oracle
from sa.estimator._base import DISPLACEMENT, Laws, Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class SNES(Method):
    """-d, d the lowest point with |d| <= rho that SNES finds (Schaul, Glasmachers & Schmidhuber).

    Points are m + s * z, z ~ N(0, I), with a mean m and a spread s for each coordinate. With
    utilities u of their ranks, m += s sum u z and s *= exp(eta/2 sum u (z^2 - 1)), eta = (3 + log
    D)/(5 sqrt D). Points and means outside the ball are projected onto it.

    It is an optimiser used as a yardstick (target ``none``): it measures how far the loss can fall
    in the ball. A step of learning rate 1 lands on the point; it does not scale with the loss.

    Paper: Schaul, Glasmachers & Schmidhuber, "High dimensions and heavy tails for natural evolution
    strategies", GECCO 2011.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.SNES(rho=0.1)(bowl, seed=0)
    >>> round(got.info["decrease"], 2)  # of at most 0.34
    0.34

    Args:
        rho: radius of the ball around the point, in the units of the weights; s starts at 0.3
            rho/sqrt D.
        generations: generations of the search.
        samples: points of a generation, 2 or more; null for 4 + floor(3 log D).

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = DISPLACEMENT
    rho: Annotated[float, Gt(0)] = 0.1
    generations: Annotated[int, Gt(0)] = 200
    samples: Annotated[int, Ge(2)] | None = None

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in generations * samples + 1 evals."""
        search = _oracle.Search(objective, params, self.rho)
        w, dim = search.at, max(1, len(search.at))
        n = _oracle.population(self.samples, dim)
        u, eta = _oracle.utilities(n, w), (3 + math.log(dim)) / (5 * math.sqrt(dim))
        m, s = torch.zeros_like(w), torch.full_like(w, 0.3 * self.rho / math.sqrt(dim))
        for _ in range(self.generations):
            z = torch.randn(n, len(w), generator=generator, dtype=w.dtype, device=w.device)
            z = z[search(m + s * z)]
            if not search.sound:  # no loss is finite
                continue
            m = search.inside(m + s * (u @ z))
            s = s * torch.exp(eta / 2 * (u @ (z.square() - 1)))
        return search.estimate()
