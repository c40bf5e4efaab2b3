"""The vocabulary every room shares: parameters, batches, estimates, the protocols between."""

import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as component
from torch import Tensor

Params = dict[str, Tensor]
"""A point: the parameters that move, by name."""

State = dict[str, Any]
"""What an estimator carries from one call to the next: tensors, numbers and dicts of them."""

Numbers = dict[str, float | str | list[float]]
"""A flat row of a record: numbers, words, or a curve as a list of numbers."""

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""Of every component read from YAML: unknown settings are errors."""


Quantizer = Callable[[Tensor], Tensor]
"""x -> q(x), same shape; steps go through `sa.surrogate.step`.

One that keeps something for every layer (learned levels, a stored range) also offers
``build(like) -> nn.Module``, like the layer's weights, None for activations; layers call it. One
of weights may offer ``moves(w, eps)``, a `Moves`: how q(w) moves with single weights.
"""

Moves = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(w, eps) -> (change, scale), each like w, of a q(w) that is codes times a scale.

With eps added to weight i, of output channel o, the code of that weight changes by change[i], and
the scale of channel o becomes scale[i]."""


@component(frozen=True, config=STRICT)
class Slots:
    """What a model quantizes with: weights, activations, and what is back-propagated to them.

    gradient: quantizes dL/dy of every activation y; None for full precision.
    """

    weight: Quantizer
    activation: Quantizer
    gradient: Quantizer | None = None


class Batch(NamedTuple):
    """Rows of data: ``inputs`` (n, ...) and ``targets`` (n, ...) or (n,) class indices."""

    inputs: Tensor
    targets: Tensor

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.inputs)

    def part(self, start: int, stop: int) -> "Batch":
        """Rows start to stop, as a view."""
        return Batch(self.inputs[start:stop], self.targets[start:stop])

    def to(self, dtype: torch.dtype) -> "Batch":
        """The batch with its floating-point tensors in another dtype; class indices stay."""
        targets = self.targets.to(dtype) if self.targets.is_floating_point() else self.targets
        return Batch(self.inputs.to(dtype), targets)


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns.

    value: the loss at the point, 0-dim float64. grad: same keys and shapes as the point.
    evals: forward-equivalents spent (a backward counts 2), the currency of fair comparisons.
    state: goes into the next call. info: flat extras for the record. told: where in a training it
    was made, ``progress`` in [0, 1] and the rate ``lr``: whoever calls the estimator again at this
    point adds it to the state.
    """

    value: Tensor
    grad: Params
    evals: float
    state: State = field(default_factory=dict)
    info: Numbers = field(default_factory=dict)
    told: State = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A piecewise constant function: ``levels[k]`` where thresholds[k-1] <= z < thresholds[k]."""

    thresholds: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Norm:
    """A BatchNorm by its name in the network, and its eps."""

    name: str
    eps: float = 1e-5


@dataclass(frozen=True)
class Link:
    """One affine map of a chain, by its parameters' names, and the step after it, if any.

    padding: of a square convolution; None for a fully connected map. pool: the side of the average
    pooling after the map. norm: BatchNorm on running statistics before the step. average: whether
    maps (rows, c, h, w) enter averaged over positions; else they are flattened. stride: of the
    convolution; 1 in a chain. step_size: a number that all inputs are multiples of, where the
    weights are codes (`Cut.kernels`).
    """

    weight: str
    bias: str | None = None
    step: Step | None = None
    padding: int | None = None
    pool: int = 1
    norm: Norm | None = None
    average: bool = False
    stride: int = 1
    step_size: float | None = None


class Units(NamedTuple):
    """Where the units of a hidden layer are, by the names of tensors.

    rows: along their first axis. columns: along the second axis of the next layer's weights, each
    unit in a block of equally many.
    """

    rows: tuple[str, ...]
    columns: str


Apply = Callable[[Params, Tensor], Tensor]
"""A part of a network as a function of every parameter and buffer, by name, and of its input."""


@dataclass(frozen=True)
class Block:
    """y = body(enter(x)) + shortcut(x), where a step comes first in the body.

    So the body's output depends only on which ``thresholds`` enter(x) is at or above.
    """

    enter: Apply
    thresholds: tuple[float, ...]
    body: Apply
    shortcut: Apply


@dataclass(frozen=True)
class Cut:
    """A network that is no chain, cut open at one convolution.

    before: (params, inputs) -> what goes into the convolution, and what sums behind it take from
    before it. links: the convolution and, where nothing but a norm and a step stand between it and
    another one, that one. kernels: by name, what the links multiply by, and the scale that follows,
    (out, 1, 1, 1) or of one element, None without one. moves: of quantized weights, how they move
    with single ones; None: w itself moves. after: what follows the links, in turn; a number adds
    what ``before`` kept there.
    """

    links: tuple[Link, ...]
    before: Callable[[Params, Tensor], tuple[Tensor, list[Tensor]]]
    kernels: Callable[[Params], dict[str, tuple[Tensor, Tensor | None]]]
    moves: Moves | None
    after: tuple[Apply | Block | int, ...]


def _no_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    raise TypeError("a plain function has no criterion")


@dataclass(frozen=True)
class Structure:
    """The network as a chain of affine maps and steps, or ``obstacle``: why it is none.

    cuts: of a network that is no chain, and where only kernels move, one for each of them.
    frozen: the network's parameters that do not move. statistics: its running statistics.
    criterion: (outputs, targets) -> row losses; quadratic: whether it is the squared error averaged
    over outputs. stochastic: whether units are random in training (`sa.surrogate.bernoulli`); None
    where nobody knows. gradients: whether what is back-propagated is quantized. quantized: what is
    quantized, ``layer.slot``, and how. units: of every hidden layer, where they may change places
    without the function changing; else ``bound``: why they may not.
    """

    links: Sequence[Link] = ()
    cuts: Sequence[Cut] = ()
    frozen: Params = field(default_factory=dict)
    statistics: Params = field(default_factory=dict)
    criterion: Callable[[Tensor, Tensor], Tensor] = _no_criterion
    quadratic: bool = False
    stochastic: bool | None = None
    gradients: bool = False
    quantized: Mapping[str, str] = field(default_factory=dict)
    obstacle: str | None = "the loss is a plain function"
    units: Sequence[Units] = ()
    bound: str | None = "the loss is a plain function"

    @property
    def hard(self) -> list[str]:
        """The quantized weights and activations: where there are any, the loss has no Hessian."""
        return [k for k in self.quantized if not k.endswith(".gradient")]

    @property
    def slow(self) -> str | None:
        """Why coordinate differences take two forwards a coordinate, or None if they do not."""
        return None if self.cuts else self.obstacle

    @property
    def plain(self) -> bool:
        """Whether every map is fully connected and followed by its step at once."""
        return bool(self.links) and all(x.padding is None and x.norm is None for x in self.links)


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


class Layer(NamedTuple):
    """What one layer did in one forward, in the order of the forward.

    name: of the layer, '' of a formula. inputs, outputs: (rows, ...). quantize: what its weights,
    or of an activation its inputs, go through; None in full precision. weight: its weights before
    that, (out, ...), and used, after it; None where it is no affine map. parameters: how many it
    has, quantizers' too.
    """

    name: str
    inputs: Tensor
    outputs: Tensor
    quantize: Quantizer | None
    weight: Tensor | None
    used: Tensor | None
    parameters: int


class Profile(NamedTuple):
    """The loss as params[name][at] moves by a shift: a piecewise constant.

    shifts (c,), ascending: where it jumps; losses (c + 1,): losses[k] between shifts[k - 1] and
    shifts[k]. Jumps at or below 0 have happened at shift 0. evals: forward-equivalents spent since
    the last profile of a series.
    """

    name: str
    at: tuple[int, ...]
    shifts: Tensor
    losses: Tensor
    evals: float


class Partial(Protocol):
    """What long computations of one row have done so far, kept now and then on disk.

    A killed run then loses seconds of them. The computations of a row come in the same order
    whenever it is computed, so their numbers say which is which.
    """

    def take(self) -> tuple[int, State]:
        """The number of the next computation, and what was kept of it: {} where nothing was."""
        ...

    def keep(self, number: int, state: State) -> None:
        """Keep the state, of tensors and numbers, if it is time to."""
        ...


class Forget:
    """A Partial that keeps nothing."""

    def take(self) -> tuple[int, State]:
        """Nothing was kept."""
        return 0, {}

    def keep(self, number: int, state: State) -> None:
        """Keep nothing."""


class Pairs(NamedTuple):
    """Leading eigenpairs, the largest algebraic value first.

    values (k,) float64; vectors (k, D), orthonormal rows, flattened as `flatten` does; residuals
    (k,) |H x - value x|, float64. Values and residuals are on the CPU.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


class Curvature(Protocol):
    """The Hessian of a loss at a point, or how another gradient changes there, by its products.

    Vectors are rows (k, D) of the point's D numbers as `flatten` orders them.
    """

    @property
    def evals(self) -> float:
        """Forward-equivalents spent so far, by this and by its blocks."""
        ...

    @property
    def products(self) -> int:
        """Products with single vectors made so far, by this and by its blocks."""
        ...

    def within(self, names: Sequence[str]) -> "Curvature":
        """The diagonal block of some tensors, the others held fixed; it shares what is kept."""
        ...

    def product(self, vectors: Tensor) -> Tensor:
        """(k, D) -> (k, D)."""
        ...

    def top(
        self,
        k: int,
        generator: torch.Generator,
        *,
        tol: float = 1e-3,
        spare: int = 0,
    ) -> Pairs:
        """The k algebraically largest eigenpairs, from nothing, with all copies."""
        ...

    def follow(self, space: Tensor, rounds: int = 1) -> Pairs:
        """A known top space (c, D) brought up to date: c products a round."""
        ...

    def trace(self, draws: int, generator: torch.Generator) -> tuple[float, float]:
        """The trace and its standard error."""
        ...

    def density(self, steps: int, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The spectrum's density as nodes (n,), ascending, and weights (n,) of sum 1."""
        ...


class Network(Protocol):
    """The network behind a loss, in evaluation mode.

    ends: (params, buffers) where trainings of it ended, where the run was given any.
    """

    ends: Sequence[tuple[Params, Params]]

    @property
    def classes(self) -> int:
        """How many classes the targets are of; 0 where they are numbers."""
        ...

    def path(self) -> Sequence[Params]:
        """The points its training kept before this one, less parameters no loss depends on."""
        ...

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """What it puts out for inputs (n, ...): (n, outputs)."""
        ...

    def evaluate(self, params: Params, buffers: Params | None = None) -> Numbers:
        """Loss, and accuracy for classes, of both splits: ``train/loss``, ``test/loss``, ..."""
        ...

    def constant(self) -> Tensor | None:
        """Loss (1,) of the best constant output on the training rows; None where there is none."""
        ...

    def recalibrate(self, params: Params, buffers: Params | None = None) -> Params:
        """The buffers with BatchNorm's statistics at params, over the training rows."""
        ...


class Objective(Protocol):
    """The loss as a function of the parameters that move, in every way it can be evaluated."""

    batch: Batch
    structure: Structure
    partial: Partial
    coupled: bool

    @property
    def rows(self) -> "RowLoss":
        """Row losses (rows,) of a part of the batch at a point."""
        ...

    @property
    def network(self) -> Network | None:
        """The network; None of a plain function."""
        ...

    @property
    def heldout(self) -> "Objective | None":
        """The same loss on rows the estimator does not see, if there are any."""
        ...

    @property
    def whole(self) -> "Objective | None":
        """The same loss on all training rows, where this one is of a minibatch."""
        ...

    @property
    def opened(self) -> "Callable[[Params], tuple[Objective, Params]] | None":
        """The loss as a function of the quantized weights, and those of a point."""
        ...

    def value(self, params: Params) -> Tensor:
        """Loss at a point: 0-dim float64."""
        ...

    def row_losses(self, params: Params) -> Tensor:
        """The loss of every row, (n,) float64 on the CPU; their mean is `value`."""
        ...

    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        """Losses at K points: (K,) float64; stack has a leading K, base fills missing names."""
        ...

    def value_and_grad(
        self,
        params: Params,
        rows: "RowLoss | None" = None,
        passes: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Params]:
        """Loss and back-propagated gradient with the surrogate in force (none: the truth, 0).

        rows: row losses to average instead of the objective's own; passes: how many forwards they
        keep alive at once. generator: of the noise with which gradients are rounded at random.
        """
        ...

    def directional(self, params: Params, stack: Params) -> Tensor:
        """Derivatives (K,) along K directions with the surrogate in force, in forward mode."""
        ...

    def hvp(self, params: Params, v: Params) -> Params:
        """The Hessian at params times v; ValueError for a quantized network, which has none."""
        ...

    def curvature(
        self,
        params: Params,
        rows: int | None = None,
        gradient: "Callable[[Params], tuple[Params, float]] | None" = None,
        epsilon: float = 0.01,
    ) -> Curvature:
        """The Hessian at params, of the first rows of the data; or of a gradient's differences."""
        ...

    def differences(
        self, params: Params, epsilons: Sequence[float], path: str = "auto"
    ) -> Differences:
        """Exact central differences along every coordinate, for every eps."""
        ...

    def profiles(self, params: Params, reach: float) -> Iterator[Profile]:
        """The exact loss along every coordinate that has such a profile."""
        ...

    def flip_rate(self, params: Params, other: Params) -> float | None:
        """Share of the activations' states that differ between two points; None without any."""
        ...

    def layers(self, params: Params, rows: int) -> list[Layer]:
        """What each layer did with the batch's first rows; nothing of a plain function."""
        ...

    def reference(
        self, estimator: "Estimator", params: Params, told: State | None = None
    ) -> Params:
        """The gradient a deterministic estimator gives at params, computed once per point."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """Turns a loss and a point into a gradient.

    ``target`` says what it estimates: the gradient of the loss itself (true), of the loss smoothed
    over a box, a gaussian or a ball, of a stochastic network's expected loss, or of none: a
    surrogate, or nothing (none): a null, or a step direction that is no gradient. Box: coordinate i
    is the derivative of the loss smoothed along i alone; cube: with every other coordinate moved at
    random by about sigma too.
    """

    @property
    def target(self) -> str:
        """true, box, cube, gaussian, ball, stochastic, surrogate or none."""
        ...

    def init(self, params: Params) -> State:
        """The state before the first call."""
        ...

    def __call__(
        self, objective: Objective, params: Params, state: State, generator: torch.Generator
    ) -> Estimate:
        """Estimate the gradient at params; randomness comes from generator only."""
        ...


@runtime_checkable
class Analysis(Protocol):
    """Measures something about an estimate; draws only from its own generator."""

    def __call__(
        self, objective: Objective, params: Params, estimate: Estimate, generator: torch.Generator
    ) -> Numbers:
        """Flat numbers or curves, their keys prefixed by the analysis' name."""
        ...


class Diverged(ArithmeticError):
    """What is measured is not finite at this point; the message says what."""


class MissingData(Exception):
    """Files of a data set that are not on this machine; the message says what to do."""


class Splits(NamedTuple):
    """Rows to learn from and rows kept away; targets may be empty (0 columns): ask the task."""

    train: Batch
    test: Batch


@runtime_checkable
class Dataset(Protocol):
    """Yields its rows; says the shape of one input and how many classes (None: regression).

    One that reads files has a ``check()``, which raises MissingData. One whose targets are numbers
    of its own says how many a row has: ``outputs``.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        ...

    @property
    def classes(self) -> int | None:
        """Number of classes, or None where targets are numbers."""
        ...

    @property
    def rows(self) -> int:
        """Number of training rows."""
        ...

    def load(self, generator: torch.Generator) -> Splits:
        """Both splits, in float64 on the CPU."""
        ...


@runtime_checkable
class Model(Protocol):
    """Describes a network; ``build`` makes it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        ...

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        ...

    def build(self, generator: torch.Generator) -> torch.nn.Module:
        """The network, initialised from the generator alone."""
        ...


def stream(seed: int, *key: str | int, device: str = "cpu") -> torch.Generator:
    """A generator of its own for one use of randomness, derived from the run's one seed.

    Streams with different keys are independent, so switching an analysis on, or resuming
    at a step, changes no other number.
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def flatten(params: Mapping[str, Tensor], lead: int = 0) -> Tensor:
    """All entries as one vector: (..., D), keeping ``lead`` leading dimensions.

    Of tensors of several dtypes the vector has the widest. Raises ValueError where there are none.
    """
    if not params:
        raise ValueError("the point has no parameters: give a dict with at least one tensor")
    # no flatten(lead): a number without dimensions has none left after the leading ones
    each = [p.reshape(*p.shape[:lead], p.shape[lead:].numel()) for p in params.values()]
    return torch.cat(each, dim=-1)


def unflatten(vector: Tensor, like: Params) -> Params:
    """The inverse of flatten: (..., D) to a tensor a name, of shape (..., *shape) and its dtype."""
    parts = vector.split([p.numel() for p in like.values()], dim=-1)
    pairs, lead = zip(like.items(), parts, strict=True), vector.shape[:-1]
    return {k: v.reshape((*lead, *p.shape)).to(p.dtype) for (k, p), v in pairs}


def finite(params: Mapping[str, Tensor]) -> bool:
    """Whether all entries are."""
    return all(bool(p.isfinite().all()) for p in params.values())


def size(params: Params) -> int:
    """D, the number of coordinates."""
    return sum(p.numel() for p in params.values())


Blocks = Literal["network", "module", "tensor"] | dict[str, tuple[str, ...]]
"""How parameters are split: all as one, by module, each alone, or by name patterns."""


def grouped(params: Mapping[str, Tensor], how: Blocks) -> dict[str, list[str]]:
    """Block -> the names of its tensors, in order; together all of params.

    ``module``: of a name up to its first dot; one that has vectors alone, as BatchNorm has, belongs
    to the module before it. A dict's patterns are tried in order; ValueError where a pattern
    matches nothing, a tensor is in no block or a block has no tensor.
    """
    out: dict[str, list[str]] = {}
    if how == "network":
        return {"network": list(params)}
    if isinstance(how, dict):
        for block, patterns in how.items():
            for pattern in patterns:
                if not fnmatch.filter(params, pattern):
                    raise ValueError(
                        f"blocks.{block}: no parameter matches '{pattern}'; there are: "
                        f"{', '.join(params)}"
                    )
        for name in params:
            inside = [b for b, ps in how.items() if any(fnmatch.fnmatch(name, p) for p in ps)]
            if not inside:
                raise ValueError(f"blocks: '{name}' is in no block; add e.g. rest: ['*']")
            out.setdefault(inside[0], []).append(name)
        if empty := [block for block in how if block not in out]:
            raise ValueError(
                f"blocks.{empty[0]}: the blocks before it hold all that it matches; expected it "
                "before them, or other patterns"
            )
        return out
    last = ""
    for name in params:
        block = name if how == "tensor" else name.partition(".")[0]
        mine = [q for k, q in params.items() if k.partition(".")[0] == block]
        if how == "module" and last and block not in out and all(q.dim() < 2 for q in mine):
            block = last
        out.setdefault(block, []).append(name)
        last = block
    return out


def blocks(total: int, block: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, stop) of at most ``block`` covering range(total)."""
    return ((start, min(start + block, total)) for start in range(0, total, block))


RowLoss = Callable[[Params, Batch], Tensor]
"""Row losses (rows,) of a batch at a point."""
