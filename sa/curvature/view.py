"""The curvature of a loss at a point, whole or of a block: what there is to ask of its products."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sa.curvature import solve, stochastic
from sa.curvature.engine import Hessian, Jacobian
from sa.curvature.solve import Pairs
from sa.params import flatten
from sa.types import Diverged

ROUNDS = 8
"""Block products that find the top space of a map that is not symmetric, from nothing."""

CLOSE = 1e-4
"""Eigenvalues as close as this, relatively, are taken for copies of one."""


@dataclass(frozen=True)
class Curvature:
    """Products with a Hessian, or with the change of another gradient, over some parameters.

    Vectors are rows (k, D), D numbers in the order of `sa.params.flatten`.

    Args:
        engine: computes the products.
        names: the parameters that vectors range over; None for all.

    """

    engine: Hessian | Jacobian
    names: tuple[str, ...] | None = None

    @property
    def evals(self) -> float:
        """Forward-equivalents spent so far, by this and by its blocks."""
        return self.engine.tally.evals

    @property
    def products(self) -> int:
        """Products with single vectors made so far, by this and by its blocks."""
        return self.engine.tally.products

    @property
    def _point(self) -> Tensor:
        point = self.engine.params
        return flatten({k: point[k] for k in self.names or point})

    def within(self, names: Sequence[str]) -> "Curvature":
        """The diagonal block of some tensors, the others held fixed; it shares what is kept."""
        return Curvature(self.engine, tuple(names))

    def product(self, vectors: Tensor) -> Tensor:
        """(k, D) -> (k, D)."""
        return self.engine.product(vectors, self.names)

    def _finite(self, vectors: Tensor) -> Tensor:
        """Return the product; raise Diverged where it is not finite: a search would fail on it."""
        out = self.product(vectors)
        if not out.isfinite().all():
            raise Diverged("the second derivatives of the loss are not finite at this point")
        return out

    def top(
        self,
        k: int,
        generator: torch.Generator,
        *,
        tol: float = 1e-3,
        spare: int = 0,
    ) -> Pairs:
        """The k algebraically largest eigenpairs, from a random start; see `solve.top`.

        An eigenvalue may be there several times over, as in the block of the last layer, once for
        each of its outputs, or nearly so. One vector sees one of them; two see two, and then the
        search is made anew from k. Of differences of a gradient, which are not
        symmetric: Ritz pairs of the symmetric part in the space that ROUNDS of `solve.follow` lead
        to. Raises Diverged where products are not finite.
        """
        w = self._point
        if not len(w):
            raise ValueError("the point has no numbers, and so no directions of curvature")
        symmetric = isinstance(self.engine, Hessian)

        def start(rows: int) -> Tensor:
            rows = min(len(w), rows)
            return torch.randn(rows, len(w), generator=generator, device=w.device, dtype=w.dtype)

        if not symmetric:
            space = solve.orthonormal(start(k + (spare or 4)))
            got = solve.follow(self._finite, space, ROUNDS)
            return Pairs(*(x[: k + spare] for x in got))
        for width in (min(2, k), k):
            got = solve.top(
                self._finite, k, start(width), generator=generator, tol=tol, spare=spare
            )
            values = got.values[:k]
            if bool((values[:-1] - values[1:] > max(CLOSE, tol**2) * values.abs()[:-1]).all()):
                break
        return got

    def follow(self, space: Tensor, rounds: int = 1) -> Pairs:
        """A known top space (c, D) brought up to date; see `solve.follow`."""
        return solve.follow(self._finite, space, rounds)

    def trace(self, draws: int, generator: torch.Generator) -> tuple[float, float]:
        """The trace and its standard error; see `stochastic.trace`."""
        return stochastic.trace(self._finite, self._point, draws, generator)

    def density(self, steps: int, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Nodes and weights of the spectrum's density; see `stochastic.density`."""
        return stochastic.density(self._finite, self._point, steps, draws, generator)
