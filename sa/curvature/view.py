"""The curvature of a loss at a point, whole or of a block: products, eigenpairs, trace, density."""

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
"""Block products that find the top space of a map that is not symmetric, from a random start."""

CLOSE = 1e-4
"""Eigenvalues with a smaller relative difference count as copies of one."""


@dataclass(frozen=True)
class Curvature:
    """Products with a Hessian, or with differences of another gradient, over some parameters.

    Vectors are rows (k, D), D numbers in the order of `sa.params.flatten`.

    Args:
        engine: computes the products.
        names: the parameters that vectors range over; None for all.

    """

    engine: Hessian | Jacobian
    names: tuple[str, ...] | None = None

    @property
    def evals(self) -> float:
        """Return the forward-equivalents spent so far, with those of the blocks."""
        return self.engine.cost.evals

    @property
    def products(self) -> int:
        """Return the number of products with single vectors so far, with those of the blocks."""
        return self.engine.cost.products

    @property
    def _point(self) -> Tensor:
        """Return the point as one vector (D,)."""
        point = self.engine.params
        return flatten({k: point[k] for k in self.names or point})

    def within(self, names: Sequence[str]) -> "Curvature":
        """Return the diagonal block of some tensors, with the others fixed, on the same graphs."""
        return Curvature(self.engine, tuple(names))

    def product(self, vectors: Tensor) -> Tensor:
        """Return the products (k, D) with vectors (k, D)."""
        return self.engine.product(vectors, self.names)

    def _finite(self, vectors: Tensor) -> Tensor:
        """Return the product; raise Diverged if it is not finite, since a search would fail."""
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
        """Return the k algebraically largest eigenpairs, from a random start; see `solve.top`.

        An eigenvalue may have several copies, or nearly equal ones: in the block of the last layer,
        one for each output. A search that starts from two vectors finds two of them, and is then
        repeated from k vectors.

        Differences of a gradient are not symmetric. For them the result is the Ritz pairs of the
        symmetric part, in the space after ROUNDS rounds of `solve.follow`.

        Raises:
            Diverged: products are not finite.

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
