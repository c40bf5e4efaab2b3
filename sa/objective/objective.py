"""The loss as a function of the parameters that move, in every way it can be evaluated.

Everything is derived from row losses, ``rows(params, batch) -> (n,)``: the loss is their mean,
summed in float64 whatever the network's dtype, and the same bits whatever the order of the rows and
the chunks they are evaluated in, which keep memory within a budget. (Points of a full-precision
chain evaluated together, whose rows are rounded anyway, are summed chunk by chunk.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sa import surrogate
from sa.curvature.engine import PART, Hessian, Jacobian
from sa.curvature.view import Curvature
from sa.flips import stack as chained
from sa.flips.differences import Profile
from sa.network.structure import LayerTrace, Structure
from sa.objective import exact
from sa.objective.evaluate import Evaluation
from sa.objective.forward import Forward
from sa.objective.gradient_noise import GradientNoise, seed
from sa.objective.memo import Memo
from sa.objective.ranks import Ranks
from sa.objective.total import total
from sa.params import blocks, flatten, stream, unflatten
from sa.types import PROBE, Batch, Estimator, KeepsNothing, Moment, Params, Partial, RowLoss

NO_HESSIAN = (
    "'{}' is quantized: the loss is flat almost everywhere, its Hessian 0, and differentiating "
    "twice through a straight-through is no loss' Hessian. Ask instead: how the stand-in gradient "
    "changes (estimator=spectral_ste), the box differences (estimator=cdg), the smoothed loss "
    "(analysis=smoothing), or the latent network in full precision (quantizer=fp)"
)


@dataclass(eq=False)
class Objective:
    """A loss over a batch.

    Args:
        forward: computes the row losses of a batch at a point.
        batch: the rows; one empty row for a plain function.
        heldout: the same loss on held-out rows, if there are any.
        whole: the same loss on all rows, if these are a minibatch.
        evaluation: scores the network on both splits; None for a plain function.
        partial: saves the progress of long computations.
        keep_outputs: whether to keep the outputs of a gradient's forward (`seen`), because the
            evaluation would compute the same ones.
        seeds: draws the seeds of gradient quantizers' noise from an estimator's generator, one for
            each network; None for one network.
        ranks: the processes that share the rows.
        first: rows of the step that come before these, in other processes.
        total: rows of the step in all processes; None if these are all.

    """

    forward: Forward
    batch: Batch
    heldout: "Objective | None" = None
    whole: "Objective | None" = None
    evaluation: Evaluation | None = None
    partial: Partial = field(default_factory=KeepsNothing)
    keep_outputs: bool = False
    seeds: Callable[[torch.Generator], Sequence[int]] | None = None
    ranks: Ranks = Ranks()
    first: int = 0
    total: int | None = None
    # of this very loss: `replace` makes another one, which begins anew
    _references: Memo = field(default_factory=Memo, init=False, repr=False)
    _curvatures: Memo = field(default_factory=lambda: Memo(last=True), init=False, repr=False)
    _outputs: Memo = field(default_factory=lambda: Memo(last=True), init=False, repr=False)

    @property
    def structure(self) -> Structure:
        """The structure of the network."""
        return self.forward.structure

    @property
    def coupled(self) -> bool:
        """Whether the loss of a row depends on the other rows (batch statistics)."""
        return self.forward.coupled

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point."""
        return self.forward.rows(params, batch)

    def double(self) -> "Objective | None":
        """Return the loss on these rows in float64; None if it is in float64 already.

        It is the loss alone: it has no held-out rows and no evaluation.
        """
        twin = self.forward.double()
        if twin is None:
            return None
        return Objective(twin, self.batch.to(torch.float64), partial=self.partial)

    def opened(self, params: Params) -> "tuple[Objective, Params]":
        """Return the loss as a function of the quantized weights, and those weights at a point.

        The new loss has no quantizers before weights; at the point it has the same value.
        """
        forward, point = self.forward.opened(params)
        evaluation = self.evaluation and replace(self.evaluation, forward=forward)

        def loss(of: Objective) -> Objective:
            return Objective(forward, of.batch, evaluation=evaluation, partial=self.partial)

        heldout, whole = (x and loss(x) for x in (self.heldout, self.whole))
        return replace(loss(self), heldout=heldout, whole=whole), point

    def _plan(self, points: int, width: int) -> tuple[int, int]:
        return self.forward.chunk_sizes(self.batch.rows, points, width)

    @torch.no_grad()
    def value(self, params: Params) -> Tensor:
        """Return the loss at a point, 0-dim float64."""
        _, rows = self._plan(1, self.forward.width)
        parts = blocks(self.batch.rows, rows)
        losses = [self.rows(params, self.batch.part(*p)).double() for p in parts]
        return total(torch.cat(losses)) / self.batch.rows

    @torch.no_grad()
    def row_losses(self, params: Params) -> Tensor:
        """Return the loss of every row at a point: (n,) float64 on the CPU, of mean `value`."""
        _, rows = self._plan(1, self.forward.width)
        parts = blocks(self.batch.rows, rows)
        each = [self.rows(params, self.batch.part(*p)).double().reshape(-1) for p in parts]
        return torch.cat(each).cpu()

    @torch.no_grad()
    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        """Return the losses (K,), float64, at K points.

        Args:
            stack: the points, every tensor with a leading K.
            base: tensors that the stack lacks, the same for all points.

        """
        shared = {k: v for k, v in (base or {}).items() if k not in stack}
        points = len(next(iter(stack.values())))
        if self.structure.plain:
            return chained.losses(
                self.structure, stack, shared, self.batch, self.forward.numerics.memory
            )
        if not self.forward.vectorized:
            each = ({k: v[i] for k, v in stack.items()} for i in range(points))
            return torch.stack([self.value(shared | one) for one in each])
        chunk, rows = self._plan(points, self.forward.width)
        run = torch.vmap(lambda one, part: self.rows(shared | one, part), in_dims=(0, None))
        out = torch.zeros(points, dtype=torch.float64, device=self.batch.inputs.device)
        for start, stop in blocks(points, chunk):
            some = {k: v[start:stop] for k, v in stack.items()}
            parts = blocks(self.batch.rows, rows)
            losses = [run(some, self.batch.part(*p)).double() for p in parts]
            out[start:stop] = total(torch.cat(losses, 1))
        return out / self.batch.rows

    def value_and_grad(
        self,
        params: Params,
        rows: RowLoss | None = None,
        passes: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Params]:
        """Return loss and gradient, back-propagated with the surrogate in force.

        Without a surrogate it is the true gradient.

        Args:
            params: the point.
            rows: row losses to average instead of the objective's own, e.g. weighted ones.
            passes: how many forwards they keep alive at once, for the sizes of chunks.
            generator: source of the noise with which gradients are rounded at random. One number
                is drawn from it, and only if the network has a random gradient quantizer: to
                compare two calls, give both a generator in the same state.

        Raises:
            ValueError: gradients are rounded at random and there is no generator.

        """
        if self.ranks.world > 1:
            with torch.no_grad():
                self.ranks.share([*params.values(), *self.forward.buffers.values()])
        kept: list[Tensor] = []
        each = self._kept(kept) if rows is None and self.keep_outputs else rows or self.rows
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        losses = []
        grads = {k: torch.zeros_like(v) for k, v in params.items()}
        _, chunk = self._plan(1, 2 * passes * self.forward.width)
        noise = GradientNoise(lambda: self._seeded(generator), self.first)
        with torch.enable_grad(), surrogate.drawing(noise):
            for p in blocks(self.batch.rows, chunk):
                noise.begin(*p)
                one = each(leaves, self.batch.part(*p)).double()
                losses.append(one.detach())
                loss = one.sum() / self.batch.rows
                if not loss.requires_grad:  # a function that cuts the graph: its derivative is 0
                    continue
                got = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
                for name, g in zip(leaves, got, strict=True):
                    grads[name] += g
        value = total(torch.cat(losses)) / self.batch.rows
        if self.ranks.world > 1:
            n = self.total or self.batch.rows
            self.ranks.add([t.mul_(self.batch.rows / n) for t in (value, *grads.values())])
            kept = [self.ranks.gathered(torch.cat(kept), self.first, n)] if kept else kept
        self._outputs.clear()
        if kept:
            self._outputs.put(params, kept)
        return value, grads

    def _kept(self, kept: list[Tensor]) -> RowLoss:
        """Return row losses that append their outputs to ``kept``."""

        def each(point: Params, part: Batch) -> Tensor:
            out = self.forward.outputs(point, part.inputs)
            kept.append(out.detach())
            return self.forward.row_losses(out, part.targets)

        return each

    def _seeded(self, generator: torch.Generator | None) -> Sequence[int]:
        if generator is None:
            raise ValueError(
                "gradients are rounded at random here (quantizer.gradient), and this call of "
                "value_and_grad has no generator; give it the estimator's, generator=generator"
            )
        return self.seeds(generator) if self.seeds else [seed(generator)]

    def seen(self, params: Params) -> list[Tensor] | None:
        """Return the outputs of the last gradient's forward, by parts of the rows.

        None unless that gradient was at params.
        """
        found: list[Tensor] | None = self._outputs.get(params)
        return found

    def directional(self, params: Params, stack: Params) -> Tensor:
        """Return the derivatives (K,), float64, along K directions, with the surrogate in force.

        In forward mode, which keeps nothing for a backward.

        Args:
            params: the point.
            stack: the directions, every tensor with a leading K.

        """
        points = len(next(iter(stack.values())))
        params = {k: p.detach().contiguous() for k, p in params.items()}  # expanded ones too
        out = torch.zeros(points, dtype=torch.float64, device=self.batch.inputs.device)
        chunk, rows = self._plan(points, 2 * self.forward.width)

        def along(one: Params, part: Batch) -> Tensor:
            summed = lambda at: self.rows(at, part).double().sum()  # noqa: E731
            return torch.func.jvp(summed, (params,), (one,))[1]

        with torch.enable_grad():  # else steps would not look for a rule
            for p in blocks(self.batch.rows, rows):
                part = self.batch.part(*p)
                for start, stop in blocks(points, chunk if self.forward.vectorized else 1):
                    some = {k: v[start:stop] for k, v in stack.items()}
                    if self.forward.vectorized:
                        out[start:stop] += torch.vmap(along, in_dims=(0, None))(some, part)
                    else:
                        out[start] += along({k: v[0] for k, v in some.items()}, part)
        return out / self.batch.rows

    def hvp(self, params: Params, v: Params) -> Params:
        """Return the exact Hessian at params times v; keep the graph for the next call there.

        Raises ValueError for a quantized network.
        """
        curvature: Curvature | None = self._curvatures.get(params)
        if curvature is None:
            curvature = self.curvature(params)
            self._curvatures.put(params, curvature)
        return unflatten(curvature.product(flatten(v)[None])[0], params)

    def curvature(
        self,
        params: Params,
        rows: int | None = None,
        gradient: Callable[[Params], tuple[Params, float]] | None = None,
        epsilon: float = 0.01,
    ) -> Curvature:
        """Return the Hessian at params as a product, over all rows (`whole`) or the first of them.

        Graphs are kept within ``memory``; those of the other rows are built for every product.

        Args:
            params: the point.
            rows: how many rows to use, the first ones; None for all.
            gradient: params -> another gradient, and its cost in forward-equivalents. The result
                is then its Jacobian by central differences, which is no Hessian.
            epsilon: step of those differences, as a share of the norm of the point.

        Raises:
            ValueError: the Hessian of a quantized network. Differentiating twice through a
                surrogate gives no loss' Hessian.

        """
        if gradient is not None:
            return Curvature(Jacobian(gradient, params, epsilon))
        s = self.structure
        if s.hard:
            raise ValueError(NO_HESSIAN.format(s.hard[0]))
        loss = self.whole or self
        n = min(rows or loss.batch.rows, loss.batch.rows)
        each = loss.forward.width * next(iter(params.values())).element_size()
        memory = loss.forward.numerics.memory
        part = n if loss.coupled else max(1, min(n, PART // each, memory // (4 * each)))

        def rows_(at: Params, some: Batch) -> Tensor:
            with surrogate.exact_gradients():  # trainings may quantize them, a Hessian does not
                return loss.rows(at, some)

        return Curvature(
            Hessian(
                rows_, loss.batch.part(0, n), params,
                part=part, kept=memory // each, of=self.batch.rows,
            )
        )  # fmt: skip

    def _twin(self, params: Params) -> "Objective | None":
        """Return the loss in float64 if the point is of another precision, else None."""
        same = all(p.dtype == torch.float64 for p in params.values())
        return None if same else self.double()

    def differences(
        self, params: Params, epsilons: Sequence[float], path: str = "auto"
    ) -> exact.Differences:
        """Return [f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every coordinate i and every eps.

        Networks run in float64, since nearly equal numbers are subtracted; a plain function runs
        in the dtype of its point.

        Args:
            params: the point w.
            epsilons: the steps eps, above 0.
            path: ``fast`` (exact flips), ``brute`` (two forwards a coordinate) or ``auto``: fast
                if possible.

        Raises:
            ValueError: path=fast is not possible.

        """
        if (twin := self._twin(params)) is not None:
            found = twin.differences({k: p.double() for k, p in params.items()}, epsilons, path)
            like = [{k: g.to(params[k].dtype) for k, g in grad.items()} for grad in found.grads]
            return replace(found, grads=like)
        slow = self.structure.why_no_fast_path
        if path == "fast" and slow:
            raise ValueError(f"there is no fast path: {slow}; take path=brute, or path=auto")
        told = self.forward, self.batch, params, epsilons, self.partial, self.values
        return exact.slow(*told) if path == "brute" or slow else exact.fast(*told)

    def profiles(self, params: Params, reach: float) -> Iterator[Profile]:
        """Return the loss along every coordinate that has a profile, layer by layer, exactly.

        Those are the coordinates of fully connected layers followed by a step. In float64 where
        there is a twin. Raises ValueError where there is no fast path.
        """
        if (twin := self._twin(params)) is not None:
            return twin.profiles({k: p.double() for k, p in params.items()}, reach)
        return exact.profiles(self.forward, self.batch, params, reach)

    @torch.no_grad()
    def flip_rate(self, params: Params, other: Params) -> float | None:
        """Share of the activations' states that differ between two points; None without any."""
        _, chunk = self._plan(1, 2 * self.forward.width)
        flipped = many = 0
        for p in blocks(self.batch.rows, chunk):
            part = self.batch.part(*p)
            states = [self.forward.states(at, part) for at in (params, other)]
            for a, b in zip(*states, strict=True):
                flipped, many = flipped + int((a != b).sum()), many + a.numel()
        return flipped / many if many else None

    @torch.no_grad()
    def layers(self, params: Params, rows: int) -> list[LayerTrace]:
        """What each layer did with the batch's first rows; nothing of a plain function."""
        return self.forward.trace(params, self.batch.part(0, rows))

    def reference(self, estimator: Estimator, params: Params, at: Moment = PROBE) -> Params:
        """The gradient a deterministic estimator gives at params, computed once per point.

        What it back-propagates is not quantized: a reference has no noise and no bias of that.
        at: where in a training the gradient is asked for.
        """
        known: Params | None = self._references.get(params, (estimator, at))
        if known is not None:
            return known
        generator = stream(0, "reference", device=str(self.batch.inputs.device))
        with surrogate.exact_gradients():
            grad = estimator(self, params, estimator.init(params), generator, at).grad
        self._references.put(params, grad, (estimator, at))
        return grad
