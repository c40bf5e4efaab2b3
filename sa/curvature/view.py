"""The curvature of a loss at a point: products, eigenpairs, trace and density, also of blocks."""

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
"""Number of block products with which a random start finds the top space of a `Jacobian`."""

CLOSE = 1e-4
"""Eigenvalues with a smaller relative difference count as copies of one."""


@dataclass(frozen=True)
class Curvature:
    """The curvature of a loss at a point, or the change of another gradient, over some parameters.

    Vectors are rows (k, D), in the order of `sa.params.flatten`.

    Args:
        engine: computes the products.
        names: the parameters, of D coordinates; None for all.

    """

    engine: Hessian | Jacobian
    names: tuple[str, ...] | None = None

    @property
    def evals(self) -> float:
        """Return the cost in forward-equivalents so far, including that of blocks (`within`)."""
        return self.engine.cost.evals

    @property
    def products(self) -> int:
        """Return the number of products with single vectors so far, including those of blocks."""
        return self.engine.cost.products

    @property
    def _point(self) -> Tensor:
        """Return the point as one vector (D,)."""
        point = self.engine.params
        return flatten({k: point[k] for k in self.names or point})

    def within(self, names: Sequence[str]) -> "Curvature":
        """Return the curvature over some tensors only, with the same stored graphs."""
        return Curvature(self.engine, tuple(names))

    def product(self, vectors: Tensor) -> Tensor:
        """Return the products (k, D) with vectors (k, D)."""
        return self.engine.product(vectors, self.names)

    def _finite(self, vectors: Tensor) -> Tensor:
        """Return the product; raise Diverged if it is not finite, because a search would fail."""
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
        """Return the k algebraically largest eigenpairs, from a random start.

        An eigenvalue may have several copies, or nearly equal ones. For example, in the block of
        the last layer there is one for each output. A search from two vectors finds two of them; if
        it does, it is repeated from k vectors.

        Differences of a gradient are not symmetric. For them the result is the Ritz pairs of the
        symmetric part, in the space after ROUNDS rounds of `solve.follow`.

        Args:
            k: number of pairs.
            generator: draws the start.
            tol: tolerance, as in `solve.top`.
            spare: number of further pairs to return, which may not have converged.

        Raises:
            Diverged: products are not finite.
            ValueError: the point has no coordinates, or fewer than k.

        """
        w = self._point
        if not len(w):
            raise ValueError(
                "the point has no numbers, so the loss has no curvature; let some parameters move"
            )
        symmetric = isinstance(self.engine, Hessian)

        def start(rows: int) -> Tensor:
            rows = min(len(w), rows)
            return torch.randn(rows, len(w), generator=generator, device=w.device, dtype=w.dtype)

        if not symmetric:
            space = solve.orthonormal(start(k + (spare or 4)))
            pairs = solve.follow(self._finite, space, ROUNDS)
            return Pairs(*(x[: k + spare] for x in pairs))
        for width in (min(2, k), k):
            pairs = solve.top(
                self._finite, k, start(width), generator=generator, tol=tol, spare=spare
            )
            values = pairs.values[:k]
            if bool((values[:-1] - values[1:] > max(CLOSE, tol**2) * values.abs()[:-1]).all()):
                break
        return pairs

    def follow(self, space: Tensor, rounds: int = 1) -> Pairs:
        """Return the pairs of a known top space (c, D) after some rounds; see `solve.follow`."""
        return solve.follow(self._finite, space, rounds)

    def trace(self, draws: int, generator: torch.Generator) -> tuple[float, float]:
        """Return the trace and its standard error; see `stochastic.trace`."""
        return stochastic.trace(self._finite, self._point, draws, generator)

    def density(self, steps: int, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return nodes and weights of the spectrum's density; see `stochastic.density`."""
        return stochastic.density(self._finite, self._point, steps, draws, generator)
