"""The vocabulary every room shares: parameters, batches, estimates, the protocols between."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

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
``build(like) -> nn.Module``, like the layer's weights, None for activations; layers call it. What
else a quantizer may declare, such as its bits, is in `sa.network.traits.Traits`.
"""

WeightMoves = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(w, eps) -> (change, scale), each like w: how a q(w) of codes times a scale moves.

With eps added to weight i, of output channel o, the code of that weight changes by change[i], and
the scale of channel o becomes scale[i]."""


@component(frozen=True, config=STRICT)
class Slots:
    """What a model quantizes with: weights, activations, and what is back-propagated to them.

    Args:
        weight: quantizes the weights of the quantized layers.
        activation: quantizes their activations.
        gradient: quantizes dL/dy of every activation y; null for full precision.

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
    state: goes into the next call. info: flat extras for the record.
    """

    value: Tensor
    grad: Params
    evals: float
    state: State = field(default_factory=dict)
    info: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """Where in a training a call is made.

    Args:
        step: optimizer steps taken so far, from 0.
        steps: steps of the whole training; 0 for a probe.
        lr: rate of this step, >= 0; 0 at the end of a schedule that ends at 0, and in a probe the
            optimizer's own. None outside of the training loop, and in processes that share rows.

    """

    step: int = 0
    steps: int = 0
    lr: float | None = None

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1]; 0 of a probe."""
        return self.step / self.steps if self.steps else 0.0


PROBE = Moment()
"""A call outside of a training."""


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


class KeepsNothing:
    """A Partial that keeps nothing."""

    def take(self) -> tuple[int, State]:
        """Nothing was kept."""
        return 0, {}

    def keep(self, number: int, state: State) -> None:
        """Keep nothing."""


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
        self,
        objective: Any,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Estimate the gradient at params; randomness comes from generator only.

        at: where in a training the call is made. state: what the estimator itself returned last.
        """
        ...


@runtime_checkable
class Analysis(Protocol):
    """Measures something about an estimate; draws only from its own generator."""

    def __call__(
        self,
        objective: Any,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers or curves, their keys prefixed by the analysis' name.

        at: where in a training the estimate was made; an estimator that is called again gets it.
        """
        ...


class Hooks:
    """Optional methods and attributes of components; the defaults do nothing.

    A class defines those that it needs. `called` and `trait` find them, or the default. Those of
    quantizers are in `sa.network.traits.Traits`.

    Attributes:
        own_step: whether an estimator's gradient is a step that it has scaled itself.
        one_backward: whether an estimator's gradient is one back-propagation, and nothing else.
        surrogate: slope that an estimator back-propagates in place of a step's derivative, or None.
        surrogates: several such slopes.
        lr: rate of the optimizer that an analysis assumes; a training sets that of the step. None
            if it assumes none.
        between: whether an analysis compares two finished trainings.
        follows: whether an analysis needs the points that a training has kept on its way.
        laws: the laws of its room that an estimator breaks on purpose -> why (`sa.testing`).
        outputs: of a dataset, how many numbers a target has; None if it does not matter.
        criterion: of a model that only one criterion fits, that criterion; else None.

    """

    own_step: ClassVar[bool] = False
    one_backward: ClassVar[bool] = False
    surrogate: str | None = None
    surrogates: Sequence[str] = ()
    lr: float | None = None
    between: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    laws: ClassVar[Mapping[str, str]] = {}
    outputs: int | None = None
    criterion: str | None = None

    def requires(self, structure: Any) -> None:
        """Raise ValueError if the component does not work with this structure of a network."""

    def fits(self, params: Params, memory: int = 0) -> None:
        """Raise ValueError if the component does not work at points like this.

        memory: bytes that one evaluation may use; 0 for estimators.
        """

    def trains(
        self, steps: int, optimizer: str, settings: Mapping[str, Any], batch_size: int | None
    ) -> None:
        """Raise ValueError if an estimator does not work in this training."""

    def takes(self, dataset: "Dataset") -> None:
        """Raise ValueError if an analysis does not work with this dataset."""

    def check(self) -> None:
        """Raise MissingData if files of a dataset are not on this machine."""

    def clean(self) -> "Dataset | None":
        """Return a dataset with its own labels where this one spoils them; None if it does not."""
        return None

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return rows (label, words) about an analysis' own numbers in a result, for a terminal."""
        return []


def trait(component: object, name: str) -> Any:
    """Return an attribute of `Hooks` as a component has it; the default if it has none."""
    # by name: a class need not inherit from Hooks
    return getattr(component, name, getattr(Hooks(), name))


def called(component: object, hook: str, *args: Any) -> Any:
    """Call a hook of `Hooks` on a component; the default does nothing."""
    return trait(component, hook)(*args)


def label(component: object) -> str:
    """Return what a component is called: its option, or its class in small letters.

    >>> class Halves:
    ...     "A class of a person's own."
    >>> label(Slots(abs, abs)), label(Halves())
    ('slots', 'halves')
    """
    name, option = type(component).__name__.lower(), type(component).__module__.rpartition(".")[2]
    return option if option.replace("_", "") == name else name


class Diverged(ArithmeticError):
    """What is measured is not finite at this point; the message says what."""


class MissingData(Exception):
    """Files of a data set that are not on this machine; the message says what to do."""


class BadData(ValueError):
    """Rows of a data set that cannot be used; the message names the file and the row."""


class Splits(NamedTuple):
    """Rows to learn from and rows kept away; targets may be empty (0 columns): ask the task."""

    train: Batch
    test: Batch


@runtime_checkable
class Dataset(Protocol):
    """Yields its rows; says the shape of one input and how many classes (None: regression).

    One that reads files also has ``check``, one whose targets are numbers of its own ``outputs``,
    and one that spoils labels ``clean``: see `Hooks`.
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
class Hashed(Protocol):
    """A dataset of files: the hash of their content is part of a run's identity, not their place.

    Its settings have a ``path``, and ``sha``, the hash: '' until a configuration is resolved.
    """

    def digest(self) -> str:
        """Return the hash of the content; raise MissingData or BadData."""
        ...


@runtime_checkable
class Model(Protocol):
    """Describes a network; ``build`` makes it. One that is a loss itself has a ``criterion``."""

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


RowLoss = Callable[[Params, Batch], Tensor]
"""Row losses (rows,) of a batch at a point."""
