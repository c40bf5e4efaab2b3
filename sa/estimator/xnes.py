"""A search by exponential NES: the best decrease that it finds in a ball."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _oracle
from sa.estimator._base import DISPLACEMENT, Laws, Method
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State

MOST = 4096
"""Most parameters D: the root of the covariance has D^2 numbers."""


@dataclass(frozen=True, config=STRICT)
class XNES(Method):
    """-d, d the lowest point with |d| <= rho that xNES finds (Glasmachers et al., GECCO 2010).

    Points are m + A z, z ~ N(0, I), with a mean m and a full root A of the covariance. With
    utilities u of their ranks, m += A sum u z and A = A exp(eta/2 sum u (z z' - I)), eta = 3 (3 +
    log D)/(5 D sqrt D). The utilities sum to 0, so the rank of the exponent is at most the size of
    the population. Points and means outside the ball are projected onto it.

    It is an optimiser used as a yardstick, like ``snes`` (target ``none``). It also learns the
    correlations between coordinates, in about D^1.5 generations. It takes at most 4,096 parameters.

    Paper: Glasmachers, Schaul, Sun, Wierstra & Schmidhuber, "Exponential natural evolution
    strategies", GECCO 2010.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.XNES(rho=0.1)(bowl, seed=0)
    >>> round(got.info["decrease"], 2)  # of at most 0.34
    0.34

    Args:
        rho: radius of the ball around the point, in the units of the weights; A starts at 0.3
            rho/sqrt D times I.
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
        if dim > MOST:
            raise ValueError(
                f"xnes stores a D x D matrix, and D={dim} is above {MOST}: use snes or cma"
            )
        n = _oracle.population(self.samples, dim)
        u, eta = _oracle.utilities(n, w), 0.6 * (3 + math.log(dim)) / dim**1.5
        m = torch.zeros_like(w)
        a = 0.3 * self.rho / math.sqrt(dim) * torch.eye(len(w), dtype=w.dtype, device=w.device)
        for _ in range(self.generations):
            z = torch.randn(n, len(w), generator=generator, dtype=w.dtype, device=w.device)
            z = z[search(m + z @ a.T)]
            if not search.sound:  # no loss is finite
                continue
            m = search.inside(m + a @ (u @ z))
            q, r = torch.linalg.qr(z.T)  # sum u z z' = q (r diag(u) r') q'
            grow, turn = torch.linalg.eigh(eta / 2 * (r * u) @ r.T)
            q = q @ turn
            a = a + (a @ q * torch.expm1(grow)) @ q.T
        return search.estimate()
