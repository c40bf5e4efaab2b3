"""Products of vectors with a Hessian, or with differences of a gradient, and their cost."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sa.params import flatten, ranges, unflatten
from sa.types import Batch, Params, RowLoss

BUILD, PRODUCT = 3.9, 3.6
"""The cost in forward-equivalents of the graph of a gradient, and of one product with it."""

PART = 32 << 20
"""Bytes of one graph, about a core's share of the caches. Larger graphs are slower."""


@dataclass
class ProductCost:
    """A counter of the cost of products.

    Args:
        evals: forward-equivalents of the whole batch so far.
        products: number of products with single vectors so far.

    """

    evals: float = 0.0
    products: int = 0


class Hessian:
    """The map v -> Hv, with H the Hessian of the mean row loss of a batch (Pearlmutter 1994).

    It differentiates the gradient by a second backward. The graph of the gradient is built in
    parts. Parts that fit into memory are stored; the others are built again for each product. Sums
    over parts are in the dtype of the point.

    Args:
        rows: (params, batch) -> row losses.
        batch: the rows.
        params: the point.
        part: number of rows of one graph.
        kept: graphs of the first ``kept`` rows are stored.
        of: number of rows of the whole batch, which may be larger than ``batch``. Costs are in
            forward-equivalents of the whole batch.

    """

    def __init__(
        self, rows: RowLoss, batch: Batch, params: Params, *, part: int, kept: int, of: int
    ):
        self.rows, self.batch, self.params, self.of = rows, batch, params, of
        self.point = {k: p.detach().requires_grad_() for k, p in params.items()}
        self.cost = ProductCost()
        self.graphs: list[dict[str, Tensor]] = []
        self.rest: list[tuple[int, int]] = []
        for start, stop in ranges(batch.rows, part):
            if stop <= kept:
                self.graphs.append(self._gradient(start, stop))
                self.cost.evals += BUILD * (stop - start) / of
            else:
                self.rest.append((start, stop))

    def _gradient(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the differentiable gradient of the rows from start to stop."""
        with torch.enable_grad():
            each = self.rows(self.point, self.batch.part(start, stop))
            loss = each.double().sum() / self.batch.rows
            wrt = list(self.point.values())
            if not loss.requires_grad:
                return {k: torch.zeros_like(p) for k, p in self.point.items()}
            grads = torch.autograd.grad(loss, wrt, create_graph=True, materialize_grads=True)
        return dict(zip(self.point, grads, strict=True))

    def product(self, vectors: Tensor, names: tuple[str, ...] | None = None) -> Tensor:
        """Return the products (k, D) with vectors (k, D).

        Args:
            vectors: (k, D), where D is the number of coordinates of the tensors.
            names: the tensors; the others do not move. None for all tensors.

        """
        like = {k: self.params[k] for k in names or self.params}
        out = torch.zeros_like(vectors)
        for graph in self.graphs:
            self._add(out, vectors, graph, like)
        for start, stop in self.rest:
            self._add(out, vectors, self._gradient(start, stop), like)
        built = sum(stop - start for start, stop in self.rest)
        spent = PRODUCT * len(out) * self.batch.rows + BUILD * built
        self.cost.evals += spent / self.of
        self.cost.products += len(out)
        return out

    def _add(self, out: Tensor, vectors: Tensor, graph: dict[str, Tensor], like: Params) -> None:
        """Add the products with the Hessian of one part to out."""
        curved = [k for k in like if graph[k].requires_grad]
        if not curved:  # the loss is linear in these tensors
            return
        outputs, wrt = [graph[k] for k in curved], [self.point[k] for k in like]
        for row, vector in zip(out, vectors, strict=True):
            v = unflatten(vector, like)
            products = torch.autograd.grad(
                outputs, wrt, [v[k] for k in curved], retain_graph=True, materialize_grads=True
            )
            row += flatten(dict(zip(like, products, strict=True)))


@dataclass
class Jacobian:
    """The map v -> [g(w + e v) - g(w - e v)] / (2 e), with e = epsilon |w| / |v|.

    g is the gradient of an estimator, for example a straight-through one. No loss has this
    gradient, so this map is not a Hessian and not symmetric. |w| is the length of the whole point;
    in a block of d of its D numbers e is sqrt(d/D) times as long, because a bias that starts at 0
    has no length of its own. At w = 0, e = epsilon / |v|.

    Args:
        gradient: point -> (g, its cost in forward-equivalents).
        params: the point w.
        epsilon: length of a difference, divided by |w|.
        cost: counts the products and their cost.

    """

    gradient: Callable[[Params], tuple[Params, float]]
    params: Params
    epsilon: float
    cost: ProductCost = field(default_factory=ProductCost)

    def product(self, vectors: Tensor, names: tuple[str, ...] | None = None) -> Tensor:
        """Return the products (k, D) with vectors (k, D); names as in `Hessian.product`."""
        like = {k: self.params[k] for k in names or self.params}
        w, whole = (flatten(p).detach() for p in (like, self.params))
        length = whole.norm() if whole.any() else whole.new_ones(())
        reach = self.epsilon * length * math.sqrt(len(w) / len(whole))
        out = torch.empty_like(vectors)
        for row, vector in zip(out, vectors, strict=True):
            e = reach / vector.norm()
            grads = []
            for move in (e * vector, -e * vector):
                grad, evals = self.gradient(self.params | unflatten(w + move, like))
                grads.append(flatten({k: grad[k] for k in like}))
                self.cost.evals += evals
            row.copy_((grads[0] - grads[1]) / (2 * e))
        self.cost.products += len(out)
        return out
