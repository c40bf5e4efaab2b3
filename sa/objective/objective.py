"""The loss as a function of the parameters that move, in every way it can be evaluated.

Everything is derived from row losses, ``rows(params, batch) -> (n,)``: the loss is their mean,
summed in float64 whatever the network's dtype, and the same bits whatever the order of the rows and
the chunks they are evaluated in, which keep memory within a budget. (Points of a full-precision
chain evaluated together, whose rows are rounded anyway, are summed chunk by chunk.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sa import surrogate
from sa.curvature.engine import PART, Hessian, Jacobian
from sa.curvature.view import Curvature
from sa.flips import brute, cuts
from sa.flips import differences as flips
from sa.flips import stack as chained
from sa.flips.differences import Profile
from sa.flips.progress import Progress
from sa.network.structure import Layer, Structure
from sa.objective.evaluate import Network
from sa.objective.gradient_noise import GradientNoise, seed
from sa.objective.total import total
from sa.params import blocks, flatten, size, stream, unflatten
from sa.types import PROBE, Batch, Estimator, Forget, Moment, Params, Partial, RowLoss


@dataclass(frozen=True)
class Differences:
    """Central differences along every coordinate: a gradient for each eps, and their price.

    path: ``fast`` (`sa.flips`) or ``brute`` (two forwards a coordinate). paths: which way each
    layer took, by its weight's name.
    """

    grads: list[Params]
    evals: float
    path: str
    paths: dict[str, str] = field(default_factory=dict)


MEMORY = 128 << 20
"""Default budget in bytes for one evaluation's intermediate results."""


VIEW = 64 << 20
"""Most bytes of one view of the exact differences, however large the budget is."""

NO_HESSIAN = (
    "'{}' is quantized: the loss is flat almost everywhere, its Hessian 0, and differentiating "
    "twice through a straight-through is no loss' Hessian. Ask instead: how the stand-in gradient "
    "changes (estimator=spectral_ste), the box differences (estimator=cdg), the smoothed loss "
    "(analysis=smoothing), or the latent network in full precision (quantizer=fp)"
)


@dataclass
class Objective:
    """A loss over a batch.

    rows: row losses of a batch at a point. batch: the rows; None for a plain function.
    heldout, whole: the same loss on rows kept away, and on all rows where these are a minibatch.
    width: numbers one row keeps alive in one evaluation, for the chunk plan. progress: whether
    work of many seconds says on stderr how far it is. vectorized: whether
    ``torch.func.vmap`` may run over points. coupled: row losses depend on the other rows (batch
    statistics), so rows are never split. double: makes the float64 twin, if there is one.
    partial: keeps what long work has done so far. states: the quantized activations (rows, ...) of
    a batch at a point, layer by layer, if there are any. trace: what each layer does with one.
    outputs: of the network, given where they are kept when a gradient is computed (`seen`); rows
    are then their losses. network: the network itself, None of a plain function. opened: the same
    loss as a function of the quantized weights, and those of a point; quantizers before weights
    are taken away. first: how many rows of the step's batch come before these, in other processes.
    seeds: of the noise of random gradient quantizers, drawn from an estimator's generator, one for
    each network.
    """

    rows: RowLoss
    batch: Batch
    structure: Structure = field(default_factory=Structure)
    heldout: "Objective | None" = None
    whole: "Objective | None" = None
    width: int = 1
    memory: int = MEMORY
    progress: bool = False
    vectorized: bool = True
    coupled: bool = False
    double: "Callable[[], Objective] | None" = None
    partial: Partial = field(default_factory=Forget)
    states: Callable[[Params, Batch], list[Tensor]] | None = None
    outputs: Callable[[Params, Batch], Tensor] | None = None
    network: Network | None = None
    trace: Callable[[Params, Batch], list[Layer]] | None = None
    opened: "Callable[[Params], tuple[Objective, Params]] | None" = None
    first: int = 0
    seeds: Callable[[torch.Generator], Sequence[int]] = lambda generator: [seed(generator)]
    _memo: list[tuple[Any, Params, Any, Moment, Params]] = field(default_factory=list, repr=False)
    _curved: list[tuple[Params, list[int], Curvature]] = field(default_factory=list, repr=False)
    _seen: tuple[Params, list[int], list[Tensor]] | None = field(default=None, repr=False)

    def _plan(self, points: int, width: int) -> tuple[int, int]:
        """How many points and how many rows to evaluate together."""
        room = max(1, self.memory // (8 * max(1, width)))  # point-rows in the budget
        rows = self.batch.rows if self.coupled else min(self.batch.rows, room)
        return max(1, min(points, room // rows)), rows

    @torch.no_grad()
    def value(self, params: Params) -> Tensor:
        """Loss at a point: 0-dim float64."""
        _, rows = self._plan(1, self.width)
        parts = blocks(self.batch.rows, rows)
        losses = [self.rows(params, self.batch.part(*p)).double() for p in parts]
        return total(torch.cat(losses)) / self.batch.rows

    @torch.no_grad()
    def row_losses(self, params: Params) -> Tensor:
        """The loss of every row at a point, (n,) float64 on the CPU; their mean is `value`."""
        _, rows = self._plan(1, self.width)
        parts = blocks(self.batch.rows, rows)
        each = [self.rows(params, self.batch.part(*p)).double().reshape(-1) for p in parts]
        return torch.cat(each).cpu()

    @torch.no_grad()
    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        """Losses (K,) float64 at K points; names missing from the stack are shared, from base."""
        shared = {k: v for k, v in (base or {}).items() if k not in stack}
        points = len(next(iter(stack.values())))
        if self.structure.plain:
            return chained.losses(self.structure, stack, shared, self.batch, self.memory)
        if not self.vectorized:
            each = ({k: v[i] for k, v in stack.items()} for i in range(points))
            return torch.stack([self.value(shared | one) for one in each])
        chunk, rows = self._plan(points, self.width)
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
        """Loss and gradient, back-propagated through the surrogate in force (none: the truth).

        Args:
            params: the point.
            rows: row losses to average instead of the objective's own, e.g. weighted ones.
            passes: how many forwards they keep alive at once, for the chunk plan.
            generator: of the noise with which gradients are rounded at random. One number is
                drawn from it, and only if the network has a quantizer of gradients that is random:
                two calls that are compared start from the same state of it.

        Raises:
            ValueError: gradients are rounded at random and there is no generator.

        """
        each, kept = rows or self.rows, []
        if rows is None and self.outputs is not None:
            forward, criterion = self.outputs, self.structure.criterion

            def each(point: Params, part: Batch) -> Tensor:
                out = forward(point, part)
                kept.append(out.detach())
                return criterion(out, part.targets)

        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        losses = []
        grads = {k: torch.zeros_like(v) for k, v in params.items()}
        _, chunk = self._plan(1, 2 * passes * self.width)
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
        self._seen = (params, _versions(params), kept) if kept else None
        return total(torch.cat(losses)) / self.batch.rows, grads

    def _seeded(self, generator: torch.Generator | None) -> Sequence[int]:
        if generator is None:
            raise ValueError(
                "gradients are rounded at random here (quantizer.gradient), and this call of "
                "value_and_grad has no generator; give it the estimator's, generator=generator"
            )
        return self.seeds(generator)

    def seen(self, params: Params) -> list[Tensor] | None:
        """The outputs that the last gradient saw, by parts of the rows, if it was at params."""
        if self._seen is None or self._seen[0] is not params:
            return None
        return self._seen[2] if self._seen[1] == _versions(params) else None

    def directional(self, params: Params, stack: Params) -> Tensor:
        """Derivatives (K,) float64 along K directions, forward mode, surrogate in force as above.

        Nothing is kept for a backward; the stack has a leading K.
        """
        points = len(next(iter(stack.values())))
        params = {k: p.detach().contiguous() for k, p in params.items()}  # expanded ones too
        out = torch.zeros(points, dtype=torch.float64, device=self.batch.inputs.device)
        chunk, rows = self._plan(points, 2 * self.width)

        def along(one: Params, part: Batch) -> Tensor:
            summed = lambda at: self.rows(at, part).double().sum()  # noqa: E731
            return torch.func.jvp(summed, (params,), (one,))[1]

        with torch.enable_grad():  # else steps would not look for a rule
            for p in blocks(self.batch.rows, rows):
                part = self.batch.part(*p)
                for start, stop in blocks(points, chunk if self.vectorized else 1):
                    some = {k: v[start:stop] for k, v in stack.items()}
                    if self.vectorized:
                        out[start:stop] += torch.vmap(along, in_dims=(0, None))(some, part)
                    else:
                        out[start] += along({k: v[0] for k, v in some.items()}, part)
        return out / self.batch.rows

    def hvp(self, params: Params, v: Params) -> Params:
        """The Hessian at params times v, exact; the graph is kept for the next call at this point.

        Raises ValueError for a quantized network, naming what to ask instead.
        """
        versions = [p._version for p in params.values()]
        known = [c for at, then, c in self._curved if at is params and then == versions]
        curvature = known[0] if known else self.curvature(params)
        self._curved[:] = [(params, versions, curvature)]
        return unflatten(curvature.product(flatten(v)[None])[0], params)

    def curvature(
        self,
        params: Params,
        rows: int | None = None,
        gradient: Callable[[Params], tuple[Params, float]] | None = None,
        epsilon: float = 0.01,
    ) -> Curvature:
        """The Hessian at params by its products, over all rows (`whole`) or the first of them.

        gradient: another gradient, and the forward-equivalents it costs; then how that changes is
        what is asked: central differences of step epsilon times the norm of the point, which are no
        Hessian. Kept graphs stay within ``memory``; the other rows' are built for every product.
        Raises ValueError for the Hessian of a quantized network: differentiating twice through a
        stand-in for a step gives no loss' Hessian.
        """
        if gradient is not None:
            return Curvature(Jacobian(gradient, params, epsilon))
        s = self.structure
        if s.hard:
            raise ValueError(NO_HESSIAN.format(s.hard[0]))
        mine = self.whole or self
        n = min(rows or mine.batch.rows, mine.batch.rows)
        each = mine.width * next(iter(params.values())).element_size()
        part = n if mine.coupled else max(1, min(n, PART // each, mine.memory // (4 * each)))

        def rows_(at: Params, some: Batch) -> Tensor:
            with surrogate.exact_gradients():  # of the loss, whatever trainings quantize
                return mine.rows(at, some)

        return Curvature(
            Hessian(
                rows_, mine.batch.part(0, n), params,
                part=part, kept=mine.memory // each, of=self.batch.rows,
            )
        )  # fmt: skip

    def differences(
        self, params: Params, epsilons: Sequence[float], path: str = "auto"
    ) -> Differences:
        """[f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every coordinate i and every eps.

        Runs in float64 where there is a twin (`double`; networks have one, a plain function runs
        in the dtype of its point), since nearly equal numbers are subtracted. path: ``fast`` (exact
        flips, raises ValueError naming what prevents them), ``brute`` (two forwards a coordinate)
        or ``auto``.
        """
        if self.double is not None and any(p.dtype != torch.float64 for p in params.values()):
            exact = {k: p.double() for k, p in params.items()}
            twin = self.double().differences(exact, epsilons, path)
            like = [{k: g.to(params[k].dtype) for k, g in grad.items()} for grad in twin.grads]
            return Differences(like, twin.evals, twin.path, twin.paths)
        s = self.structure
        if path == "fast" and s.slow:
            raise ValueError(f"there is no fast path: {s.slow}")
        if path == "brute" or s.slow:
            evals = 2.0 * size(params) * len(epsilons)
            return Differences([self._brute(params, e) for e in epsilons], evals, "brute")
        if s.cuts:
            return self._cut(params, epsilons)
        number, kept = self.partial.take()
        if kept:
            return Differences(kept["grads"], kept["evals"], "fast", kept["paths"])
        # a view keeps every layer several times; beyond VIEW bytes it is no faster, but slower
        rows = min(self._plan(1, 12 * self.width)[1], max(1, VIEW // (96 * self.width)))
        with torch.no_grad():
            grads, evals, paths = flips.differences(
                s.links, s.statistics | s.frozen | params, list(params), self.batch, s.criterion,
                s.quadratic, epsilons, rows, self.memory // 24,
            )  # fmt: skip
        self.partial.keep(number, {"grads": grads, "evals": evals, "paths": paths})
        return Differences(grads, evals, "fast", paths)

    @torch.no_grad()
    def profile(
        self, params: Params, name: str, at: tuple[int, ...], reach: float
    ) -> tuple[Tensor, Tensor]:
        """The loss as params[name][at] moves by -reach to reach, exactly: a piecewise constant.

        Returns shifts (c,), ascending, where it jumps, and losses (c + 1,): losses[k] between
        shifts[k - 1] and shifts[k]. Every crossing of a threshold by a row is a jump, of the same
        flip effects that `differences` sums. Raises ValueError where there is no fast path or the
        layer is not a fully connected one with a step.
        """
        s = self.structure
        if s.obstacle:
            raise ValueError(f"there is no exact profile: {s.obstacle}")
        _, rows = self._plan(1, 8 * self.width)
        return flips.profile(
            s.links, s.statistics | s.frozen | params, name, at, self.batch, s.criterion,
            s.quadratic, reach, rows,
        )  # fmt: skip

    @torch.no_grad()
    def profiles(self, params: Params, reach: float) -> Iterator[Profile]:
        """The loss along every coordinate that has a profile, layer by layer, exactly.

        Those are the coordinates of fully connected layers followed by a step. In float64 where
        there is a twin. One layer's flip effects serve all its coordinates, which makes it some ten
        times faster than a `profile` each. Raises ValueError where there is no fast path.
        """
        if self.double is not None and any(p.dtype != torch.float64 for p in params.values()):
            exact = {k: p.double() for k, p in params.items()}
            yield from self.double().profiles(exact, reach)
            return
        s = self.structure
        if s.obstacle:
            raise ValueError(f"there are no exact profiles: {s.obstacle}")
        _, rows = self._plan(1, 8 * self.width)
        yield from flips.profiles(
            s.links, s.statistics | s.frozen | params, list(params), self.batch, s.criterion,
            s.quadratic, reach, rows,
        )  # fmt: skip

    def _cut(self, params: Params, epsilons: Sequence[float]) -> Differences:
        """The differences of kernels in a network that is no chain, one after another."""
        _, rows = self._plan(1, self.width)
        with torch.no_grad():
            grads, evals, paths = cuts.differences(
                self.structure, params, self.batch, epsilons, rows, self.memory, self.partial,
                self.progress,
            )  # fmt: skip
        return Differences(grads, evals, "fast", paths)

    @torch.no_grad()
    def _brute(self, params: Params, epsilon: float) -> Params:
        why = f" ({self.structure.slow})" if self.structure.slow else ""
        what = f"brute-force differences, eps {epsilon:g}{why}"
        told = Progress(self.progress, what, size(params))

        def together(numbers: int) -> int:
            chunk, _ = self._plan(2 * numbers, self.width + numbers // self.batch.rows)
            return max(1, chunk // 2)

        return brute.differences(self.values, params, epsilon, together, self.partial, told)

    @torch.no_grad()
    def flip_rate(self, params: Params, other: Params) -> float | None:
        """Share of the activations' states that differ between two points; None without any."""
        if self.states is None:
            return None
        _, chunk = self._plan(1, 2 * self.width)
        flipped = total = 0
        for p in blocks(self.batch.rows, chunk):
            part = self.batch.part(*p)
            for a, b in zip(self.states(params, part), self.states(other, part), strict=True):
                flipped, total = flipped + int((a != b).sum()), total + a.numel()
        return flipped / total if total else None

    @torch.no_grad()
    def layers(self, params: Params, rows: int) -> list[Layer]:
        """What each layer did with the batch's first rows; nothing of a plain function."""
        return self.trace(params, self.batch.part(0, rows)) if self.trace else []

    def reference(self, estimator: Estimator, params: Params, at: Moment = PROBE) -> Params:
        """The gradient a deterministic estimator gives at params, computed once per point.

        What it back-propagates is not quantized: a reference has no noise and no bias of that.
        at: where in a training the gradient is asked for.
        """
        versions = _versions(params)
        for known, point, then, when, grad in self._memo:
            if known == estimator and point is params and (then, when) == (versions, at):
                return grad
        generator = stream(0, "reference", device=str(self.batch.inputs.device))
        with surrogate.exact_gradients():
            grad = estimator(self, params, estimator.init(params), generator, at).grad
        self._memo.append((estimator, params, versions, at, grad))
        return grad


def _versions(params: Params) -> list[int]:
    """Changes when a tensor is changed in place, as tensors count that."""
    return [p._version for p in params.values()]


def from_function(loss: Callable[[Params], Tensor], *, vectorized: bool = False) -> Objective:
    """Any ``loss(params) -> 0-dim tensor`` as an objective; no batch, no Hydra.

    vectorized: whether ``torch.func.vmap`` may run the function over points: much faster where
    it does not branch on values or call ``.item()``.

    >>> f = from_function(lambda p: (p["w"] ** 2).sum())
    >>> float(f.value({"w": torch.tensor([3.0, 4.0])}))
    25.0
    """
    one = torch.zeros(1, 0)
    return Objective(
        lambda params, batch: loss(params).reshape(1), Batch(one, one), vectorized=vectorized
    )
