"""Products with a Hessian: by kept graphs while they fit, else by graphs built anew."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sa.params import blocks, flatten, unflatten
from sa.types import Batch, Params, RowLoss

BUILD, PRODUCT = 3.9, 3.6
"""Forward-equivalents of the graph of a gradient, and of a product with it."""

PART = 32 << 20
"""Bytes of one graph: about a core's share of the caches, beyond which products slow down."""


@dataclass
class Tally:
    """What products have cost: forward-equivalents of the whole batch, and how many there were."""

    evals: float = 0.0
    products: int = 0


class Hessian:
    """v -> Hv, H the Hessian at ``params`` of the mean row loss of a batch.

    The graph of the gradient is built once and kept for the first ``kept`` rows, in parts of
    ``part`` rows; that of the others is built anew for each product (Pearlmutter 1994, reverse over
    reverse). Sums over parts are in the dtype of the point. of: rows of the whole batch, in whose
    forward-equivalents costs are told, where this one is a part of it.
    """

    def __init__(
        self, rows: RowLoss, batch: Batch, params: Params, *, part: int, kept: int, of: int
    ):
        self.rows, self.batch, self.params, self.of = rows, batch, params, of
        self.leaves = {k: p.detach().requires_grad_() for k, p in params.items()}
        self.tally = Tally()
        self.graphs: list[dict[str, Tensor]] = []
        self.rest: list[tuple[int, int]] = []
        for start, stop in blocks(batch.rows, part):
            if stop <= kept:
                self.graphs.append(self._gradient(start, stop))
                self.tally.evals += BUILD * (stop - start) / of
            else:
                self.rest.append((start, stop))

    def _gradient(self, start: int, stop: int) -> dict[str, Tensor]:
        """The part's gradient, differentiable."""
        with torch.enable_grad():
            each = self.rows(self.leaves, self.batch.part(start, stop))
            loss = each.double().sum() / self.batch.rows
            wrt = list(self.leaves.values())
            if not loss.requires_grad:
                return {k: torch.zeros_like(p) for k, p in self.leaves.items()}
            got = torch.autograd.grad(loss, wrt, create_graph=True, materialize_grads=True)
        return dict(zip(self.leaves, got, strict=True))

    def product(self, vectors: Tensor, names: tuple[str, ...] | None = None) -> Tensor:
        """(k, D) -> (k, D), over the tensors named (None: all), D numbers, the others fixed."""
        like = {k: self.params[k] for k in names or self.params}
        out = torch.zeros_like(vectors)
        for graph in self.graphs:
            self._add(out, vectors, graph, like)
        for start, stop in self.rest:
            self._add(out, vectors, self._gradient(start, stop), like)
        built = sum(stop - start for start, stop in self.rest)
        spent = PRODUCT * len(out) * self.batch.rows + BUILD * built
        self.tally.evals += spent / self.of
        self.tally.products += len(out)
        return out

    def _add(self, out: Tensor, vectors: Tensor, graph: dict[str, Tensor], like: Params) -> None:
        curved = [k for k in like if graph[k].requires_grad]
        if not curved:  # a loss that is linear here
            return
        outputs, wrt = [graph[k] for k in curved], [self.leaves[k] for k in like]
        for row, vector in zip(out, vectors, strict=True):
            v = unflatten(vector, like)
            got = torch.autograd.grad(
                outputs, wrt, [v[k] for k in curved], retain_graph=True, materialize_grads=True
            )
            row += flatten(dict(zip(like, got, strict=True)))


@dataclass
class Jacobian:
    """v -> [g(w + e v) - g(w - e v)] / (2 e), e = epsilon |w| / |v|: how a field changes along v.

    |w| is of the whole point; in a block of d of its D numbers e is sqrt(d/D) times that, since a
    bias that starts at 0 has no length of its own. At w = 0, e = epsilon / |v|. The field is a
    gradient estimator's, e.g. a straight-through one, which is no loss' gradient: so this is no
    Hessian, nor symmetric. gradient: the field at a point, and the forward-equivalents it costs.
    """

    gradient: Callable[[Params], tuple[Params, float]]
    params: Params
    epsilon: float
    tally: Tally = field(default_factory=Tally)

    def product(self, vectors: Tensor, names: tuple[str, ...] | None = None) -> Tensor:
        """(k, D) -> (k, D), over the tensors named (None: all)."""
        like = {k: self.params[k] for k in names or self.params}
        w, whole = (flatten(p).detach() for p in (like, self.params))
        length = whole.norm() if whole.any() else whole.new_ones(())
        reach = self.epsilon * length * math.sqrt(len(w) / len(whole))
        out = torch.empty_like(vectors)
        for row, vector in zip(out, vectors, strict=True):
            e = reach / vector.norm()
            ends = []
            for move in (e * vector, -e * vector):
                grad, evals = self.gradient(self.params | unflatten(w + move, like))
                ends.append(flatten({k: grad[k] for k in like}))
                self.tally.evals += evals
            row.copy_((ends[0] - ends[1]) / (2 * e))
        self.tally.products += len(out)
        return out
