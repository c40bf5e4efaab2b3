"""A search by separable CMA-ES: the best decrease that it finds in a ball."""

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
class CMA(Method):
    """-d, d the lowest point with |d| <= rho that sep-CMA-ES finds (Ros & Hansen, PPSN 2008).

    Points are m + s sqrt(c) z, z ~ N(0, I), with a mean m, a step size s and a variance c for each
    coordinate. The mean moves to the weighted mean of the better half. s follows the length of the
    evolution path, c the squares of the moves (rank 1 and rank mu, at (D + 2)/3 times the learning
    rates of the full matrix). Points outside the ball are projected onto it, and the search learns
    from the projected points: it stalls otherwise, unlike ``snes`` and ``xnes``.

    It is an optimiser used as a yardstick, like ``snes`` (target ``none``). Of ``snes``, ``xnes``
    and ``cma`` it is the most reliable in many dimensions.

    Paper: Ros & Hansen, "A simple modification in CMA-ES", PPSN 2008; constants of Hansen, "The CMA
    evolution strategy: a tutorial", arXiv 1604.00772, 2016.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.CMA(rho=0.1)(bowl, seed=0)
    >>> round(got.info["decrease"], 2)  # of at most 0.34
    0.34

    Args:
        rho: radius of the ball around the point, in the units of the weights; s starts at 0.3
            rho/sqrt D.
        generations: generations of the search, at most.
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
        """Return the estimate, in at most generations * samples + 1 evals."""
        search = _oracle.Search(objective, params, self.rho)
        w, dim = search.at, max(1, len(search.at))
        n = _oracle.population(self.samples, dim)
        weights = math.log((n + 1) / 2) - torch.arange(1.0, n // 2 + 1, dtype=torch.float64).log()
        weights = (weights / weights.sum()).to(w)
        mu = 1 / float(weights.square().sum())
        hold = (mu + 2) / (dim + mu + 5)  # rate of the path of s
        damp = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (dim + 1)) - 1) + hold
        keep = (4 + mu / dim) / (dim + 4 + 2 * mu / dim)  # rate of the path of c
        faster = (dim + 2) / 3
        one = faster * 2 / ((dim + 1.3) ** 2 + mu)
        many = faster * 2 * (mu - 2 + 1 / mu) / ((dim + 2) ** 2 + mu)
        one, many = one / max(1.0, one + many), many / max(1.0, one + many)
        usual = math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim**2))  # E|z|
        m, s, c = torch.zeros_like(w), 0.3 * self.rho / math.sqrt(dim), torch.ones_like(w)
        path, track = torch.zeros_like(w), torch.zeros_like(w)
        for generation in range(1, self.generations + 1):
            if not len(w) or s * float(c.max().sqrt()) < 100 * torch.finfo(w.dtype).eps * self.rho:
                break  # rounding makes all points equal
            z = torch.randn(n, dim, generator=generator, dtype=w.dtype, device=w.device)
            moves = search.inside(m + s * c.sqrt() * z)
            z = ((moves - m) / (s * c.sqrt()))[search(moves)][: len(weights)]
            if not search.sound:  # no loss is finite
                continue
            z[search.sound :] = 0  # parents whose loss is not finite have no weight
            mean = weights @ z
            m = m + s * c.sqrt() * mean
            path = (1 - hold) * path + math.sqrt(hold * (2 - hold) * mu) * mean
            length = float(path.norm())
            early = length / math.sqrt(1 - (1 - hold) ** (2 * generation))
            calm = float(early < (1.4 + 2 / (dim + 1)) * usual)  # 0 if the path is too long
            track = (1 - keep) * track + calm * math.sqrt(keep * (2 - keep) * mu) * c.sqrt() * mean
            grown = one * (track.square() + (1 - calm) * keep * (2 - keep) * c)
            c = (1 - one - many) * c + grown + many * c * (weights @ z.square())
            s = s * math.exp(min(1.0, hold / damp * (length / usual - 1)))
        return search.estimate()
