"""`Objective`: the loss as a function of the parameters that move, its gradient and differences.

The loss is the mean of row losses, ``rows(params, batch) -> (n,)``. Rows are evaluated in chunks
that fit into ``memory``, and summed in float64. The loss is the same to the last bit for every
order of the rows and every chunk size. (Exception: `values` of a full-precision chain.)
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
from sa.network.trace import Unreadable
from sa.objective import exact
from sa.objective.evaluate import Evaluation
from sa.objective.forward import Forward
from sa.objective.gradient_noise import GradientNoise, seed
from sa.objective.memo import Memo
from sa.objective.ranks import Ranks
from sa.objective.total import total
from sa.params import flatten, ranges, stream, unflatten
from sa.types import PROBE, Batch, Estimator, KeepsNothing, Moment, Params, Partial, RowLoss

NO_HESSIAN = (
    "'{}' is quantized: the loss is flat almost everywhere, so its Hessian is 0, and "
    "differentiating twice through a straight-through does not give the Hessian of any loss. Study "
    "instead: how the surrogate gradient changes (estimator=spectral_ste), box differences "
    "(estimator=cdg), the smoothed loss (analysis=smoothing), or full precision (quantizer=fp)"
)


@dataclass(eq=False)
class Objective:
    """A loss over a batch.

    Args:
        forward: computes the row losses of a batch at a point.
        batch: the rows; one empty row for a plain function.
        heldout: the same loss on held-out rows; None if there are none.
        whole: the same loss on all rows; None if ``batch`` has all rows.
        evaluation: scores the network on both splits; None for a plain function.
        partial: saves the progress of long computations.
        keep_outputs: True to keep the outputs of a gradient's forward (`seen`), because the
            evaluation would compute the same ones.
        seeds: draws the seeds of gradient quantizers' noise from an estimator's generator, one for
            each network; None for one network.
        ranks: the processes that share the rows.
        first: number of rows of the step that come before these, in other processes.
        total: number of rows of the step in all processes; None if ``batch`` has all of them.

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
    # caches of this loss alone: `dataclasses.replace` makes a loss with empty caches
    _references: Memo = field(default_factory=Memo, init=False, repr=False)
    _curvatures: Memo = field(default_factory=lambda: Memo(last=True), init=False, repr=False)
    _outputs: Memo = field(default_factory=lambda: Memo(last=True), init=False, repr=False)

    @property
    def structure(self) -> Structure:
        """The structure of the network."""
        return self.forward.structure

    @property
    def coupled(self) -> bool:
        """True if the loss of a row depends on the other rows (batch statistics)."""
        return self.forward.coupled

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point."""
        return self.forward.rows(params, batch)

    def double(self) -> "Objective | None":
        """Return the loss on these rows in float64; None if it is in float64 already.

        The new loss has no held-out rows and no evaluation.
        """
        twin = self.forward.double()
        if twin is None:
            return None
        return Objective(twin, self.batch.to(torch.float64), partial=self.partial)

    def opened(self, params: Params) -> "tuple[Objective, Params]":
        """Return the loss as a function of the quantized weights, and those weights at a point.

        The new loss does not quantize weights; at the returned point its value is the same.
        """
        forward, point = self.forward.opened(params)
        evaluation = self.evaluation and replace(self.evaluation, forward=forward)

        def loss(of: Objective) -> Objective:
            return Objective(forward, of.batch, evaluation=evaluation, partial=self.partial)

        heldout, whole = (x and loss(x) for x in (self.heldout, self.whole))
        return replace(loss(self), heldout=heldout, whole=whole), point

    def _chunk_sizes(self, points: int, width: int) -> tuple[int, int]:
        return self.forward.chunk_sizes(self.batch.rows, points, width)

    @torch.no_grad()
    def value(self, params: Params) -> Tensor:
        """Return the loss at a point, 0-dim float64."""
        _, rows = self._chunk_sizes(1, self.forward.width)
        parts = ranges(self.batch.rows, rows)
        losses = [self.rows(params, self.batch.part(*p)).double() for p in parts]
        return total(torch.cat(losses)) / self.batch.rows

    @torch.no_grad()
    def row_losses(self, params: Params) -> Tensor:
        """Return the loss of every row, (n,) float64 on the CPU; their mean is `value`."""
        _, rows = self._chunk_sizes(1, self.forward.width)
        parts = ranges(self.batch.rows, rows)
        each = [self.rows(params, self.batch.part(*p)).double().reshape(-1) for p in parts]
        return torch.cat(each).cpu()

    @torch.no_grad()
    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        """Return the losses at K points, (K,) float64.

        Args:
            stack: the points; every tensor has a first dimension of length K.
            base: tensors that are the same for all points and that the stack does not have.

        """
        shared = {k: v for k, v in (base or {}).items() if k not in stack}
        points = len(next(iter(stack.values())))
        if self.structure.plain:
            return chained.losses(
                self.structure, stack, shared, self.batch, self.forward.numerics.memory
            )
        if not self.forward.vectorized:
            single = ({k: v[i] for k, v in stack.items()} for i in range(points))
            return torch.stack([self.value(shared | one) for one in single])
        chunk, rows = self._chunk_sizes(points, self.forward.width)
        at = lambda one, part: self.rows(shared | one, part)  # noqa: E731
        run = torch.vmap(at, in_dims=(0, None), randomness="same")
        out = torch.zeros(points, dtype=torch.float64, device=self.batch.inputs.device)
        for start, stop in ranges(points, chunk):
            some = {k: v[start:stop] for k, v in stack.items()}
            parts = ranges(self.batch.rows, rows)
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
        """Return the loss, 0-dim float64, and its gradient, like ``params``.

        The gradient is back-propagated with the surrogate in force; without one it is the true one.

        Args:
            params: the point.
            rows: row losses to average instead of the objective's own, e.g. weighted ones.
            passes: how many forwards ``rows`` keeps in memory; it decides the sizes of chunks.
            generator: generator for the noise of random gradient quantizers. One number is drawn,
                and only if there is such a quantizer. To compare two calls, give both a generator
                in the same state.

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
        _, chunk = self._chunk_sizes(1, 2 * passes * self.forward.width)
        noise = GradientNoise(lambda: self._draw_seeds(generator), self.first)
        with torch.enable_grad(), surrogate.drawing(noise):
            for p in ranges(self.batch.rows, chunk):
                noise.begin(*p)
                one = each(leaves, self.batch.part(*p)).double()
                losses.append(one.detach())
                loss = one.sum() / self.batch.rows
                if not loss.requires_grad:  # the function does not depend on params: gradient 0
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

    def _draw_seeds(self, generator: torch.Generator | None) -> Sequence[int]:
        if generator is None:
            raise ValueError(
                "gradients are rounded at random here (quantizer.gradient), and this call of "
                "value_and_grad has no generator; pass the estimator's: generator=generator"
            )
        return self.seeds(generator) if self.seeds else [seed(generator)]

    def seen(self, params: Params) -> list[Tensor] | None:
        """Return the outputs of the last gradient's forward, in parts of the rows.

        None if that gradient was at another point, or if ``keep_outputs`` is False.
        """
        return self._outputs.get(params)

    def directional(self, params: Params, stack: Params) -> Tensor:
        """Return the derivatives along K directions, (K,) float64, with the surrogate in force.

        They are computed in forward mode, which needs no memory for a backward.

        Args:
            params: the point.
            stack: the directions; every tensor has a first dimension of length K.

        """
        points = len(next(iter(stack.values())))
        params = {k: p.detach().contiguous() for k, p in params.items()}
        out = torch.zeros(points, dtype=torch.float64, device=self.batch.inputs.device)
        chunk, rows = self._chunk_sizes(points, 2 * self.forward.width)

        def along(one: Params, part: Batch) -> Tensor:
            summed = lambda at: self.rows(at, part).double().sum()  # noqa: E731
            return torch.func.jvp(summed, (params,), (one,))[1]

        run = torch.vmap(along, in_dims=(0, None), randomness="same")
        with torch.enable_grad():  # a step uses its surrogate only if gradients are enabled
            for p in ranges(self.batch.rows, rows):
                part = self.batch.part(*p)
                for start, stop in ranges(points, chunk if self.forward.vectorized else 1):
                    some = {k: v[start:stop] for k, v in stack.items()}
                    if self.forward.vectorized:
                        out[start:stop] += run(some, part)
                    else:
                        out[start] += along({k: v[0] for k, v in some.items()}, part)
        return out / self.batch.rows

    def hvp(self, params: Params, v: Params) -> Params:
        """Return the exact Hessian at params times v; raise ValueError for a quantized network.

        The graph is kept, so that the next call at the same point is faster.
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
        """Return the Hessian at params, as an object that multiplies vectors by it.

        It is the Hessian of the loss on all rows (`whole`). Graphs are kept as far as ``memory``
        allows; the graphs of the other rows are built again for every product.

        Args:
            params: the point.
            rows: use the first so many rows; None uses all.
            gradient: params -> (another gradient, its cost in forward-equivalents). If given, the
                result is the Jacobian of that gradient, by central differences.
            epsilon: step of those differences, as a share of the norm of the point.

        Raises:
            ValueError: the network is quantized, and ``gradient`` is None.

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
        part = n if not loss.forward.splits else max(1, min(n, PART // each, memory // (4 * each)))

        def rows_(at: Params, some: Batch) -> Tensor:
            with surrogate.exact_gradients():  # a Hessian never quantizes gradients
                return loss.rows(at, some)

        return Curvature(
            Hessian(
                rows_, loss.batch.part(0, n), params,
                part=part, kept=memory // each, of=self.batch.rows,
            )
        )  # fmt: skip

    def _twin(self, params: Params) -> "Objective | None":
        """Return the loss in float64 if the point has another dtype, else None."""
        same = all(p.dtype == torch.float64 for p in params.values())
        return None if same else self.double()

    def differences(
        self, params: Params, epsilons: Sequence[float], path: str = "auto"
    ) -> exact.Differences:
        """Return [f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every coordinate i and every eps.

        Networks run in float64, because nearly equal numbers are subtracted; a plain function runs
        in the dtype of its point.

        Args:
            params: the point w.
            epsilons: the step lengths eps, each above 0.
            path: ``fast`` (exact flips), ``brute`` (two forwards for each coordinate) or ``auto``:
                fast if possible.

        Raises:
            Unreadable: ``path`` is ``fast``, and this network has no fast path.

        """
        if (twin := self._twin(params)) is not None:
            found = twin.differences({k: p.double() for k, p in params.items()}, epsilons, path)
            like = [{k: g.to(params[k].dtype) for k, g in grad.items()} for grad in found.grads]
            return replace(found, grads=like)
        why_not = self.structure.why_no_fast_path
        if path == "fast" and why_not:
            raise Unreadable(f"there is no fast path: {why_not}; take path=brute, or path=auto")
        compute = exact.slow if path == "brute" or why_not else exact.fast
        return compute(self.forward, self.batch, params, epsilons, self.partial, self.values)

    def profiles(self, params: Params, reach: float) -> Iterator[Profile]:
        """Return the exact loss along every coordinate that has a profile, layer by layer.

        Weights of fully connected layers before a step have one. Networks run in float64. Raises
        Unreadable if the network has no fast path.
        """
        if (twin := self._twin(params)) is not None:
            return twin.profiles({k: p.double() for k, p in params.items()}, reach)
        return exact.profiles(self.forward, self.batch, params, reach)

    @torch.no_grad()
    def flip_rate(self, params: Params, other: Params) -> float | None:
        """Return the share of quantized activations that differ at two points; None without any."""
        _, chunk = self._chunk_sizes(1, 2 * self.forward.width)
        flipped = many = 0
        for p in ranges(self.batch.rows, chunk):
            part = self.batch.part(*p)
            states = [self.forward.states(at, part) for at in (params, other)]
            for a, b in zip(*states, strict=True):
                flipped, many = flipped + int((a != b).sum()), many + a.numel()
        return flipped / many if many else None

    @torch.no_grad()
    def layers(self, params: Params, rows: int) -> list[LayerTrace]:
        """Return inputs, outputs and weights of every layer, for the first ``rows`` rows."""
        return self.forward.trace(params, self.batch.part(0, rows))

    def reference(self, estimator: Estimator, params: Params, at: Moment = PROBE) -> Params:
        """Return the gradient of a deterministic estimator at params, computed once for each point.

        Gradient quantizers are off, so the reference has neither their noise nor their bias. ``at``
        says where in a training the gradient is wanted.
        """
        if (known := self._references.get(params, (estimator, at))) is not None:
            return known
        generator = stream(0, "reference", device=str(self.batch.inputs.device))
        with surrogate.exact_gradients():
            grad = estimator(self, params, estimator.init(params), generator, at).grad
        self._references.put(params, grad, (estimator, at))
        return grad
