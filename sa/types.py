"""Types that every package of sa shares: parameters, batches, estimates and protocols."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as component
from torch import Tensor

Params = dict[str, Tensor]
"""A point: name -> tensor, for the parameters that move."""

State = dict[str, Any]
"""What an estimator keeps between two calls: tensors, numbers, and dicts of them."""

Numbers = dict[str, float | str | list[float]]
"""A flat row of a record: name -> a number, a word, or a curve as a list of numbers."""

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""The pydantic settings of every component that YAML describes: an unknown setting is an error."""


Quantizer = Callable[[Tensor], Tensor]
"""A function x -> q(x) of the same shape. Its steps go through `sa.surrogate.step`.

A quantizer that stores something for each layer, such as learned levels or a range, also has
``build(like) -> nn.Module``. A layer calls it with its weights, or with None for activations.
`sa.network.traits.Traits` lists what a quantizer may declare, for example its bits.
"""

WeightMoves = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(w, eps) -> (change, scale), both of the shape of w, for a q(w) that is codes times a scale.

If eps is added to weight i alone, the code of weight i changes by change[i], and the scale of its
output channel becomes scale[i]."""


@component(frozen=True, config=STRICT)
class Slots:
    """The three quantizers of a model: of weights, of activations and of gradients.

    Args:
        weight: quantizes the weights of the quantized layers.
        activation: quantizes the activations of these layers.
        gradient: quantizes dL/dy of every activation y; null for full precision.

    """

    weight: Quantizer
    activation: Quantizer
    gradient: Quantizer | None = None


class Batch(NamedTuple):
    """Rows of data.

    >>> rows = Batch(inputs=torch.ones(4, 2), targets=torch.zeros(4))
    >>> rows.rows, rows.part(1, 3).rows
    (4, 2)

    Args:
        inputs: (n, ...).
        targets: (n, ...), or class indices (n,).

    """

    inputs: Tensor
    targets: Tensor

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the rows from start (included) to stop (excluded), as a view."""
        return Batch(self.inputs[start:stop], self.targets[start:stop])

    def to(self, dtype: torch.dtype) -> "Batch":
        """Return the batch with its floating-point tensors in a dtype; class indices stay."""
        targets = self.targets.to(dtype) if self.targets.is_floating_point() else self.targets
        return Batch(self.inputs.to(dtype), targets)


@dataclass(frozen=True)
class Estimate:
    """The result of one call of an estimator.

    Args:
        value: the loss at the point, 0-dim, float64.
        grad: the gradient, with the names and shapes of the point.
        evals: the cost in forward-equivalents: a forward counts 1, a backward 2.
        state: the state for the next call.
        info: further numbers for the record.


    >>> got = Estimate(value=torch.tensor(2.0), grad={"w": torch.ones(3)}, evals=3.0)
    >>> got.evals, got.state, got.info
    (3.0, {}, {})
    """

    value: Tensor
    grad: Params
    evals: float
    state: State = field(default_factory=dict)
    info: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """The moment of a training at which a component is called.

    >>> Moment(step=5, steps=20, lr=0.1).progress
    0.25

    Args:
        step: number of optimizer steps taken so far, from 0.
        steps: number of steps of the whole training; 0 if there is no training (a probe).
        lr: learning rate of this step, >= 0. It is 0 at the end of a schedule that ends at 0. In a
            probe it is the rate of the optimizer. It is None outside of the training loop, and in
            processes that share the rows of a batch.

    """

    step: int = 0
    steps: int = 0
    lr: float | None = None

    @property
    def progress(self) -> float:
        """Return the share of the training that is done, in [0, 1]; 0 for a probe."""
        return self.step / self.steps if self.steps else 0.0


PROBE = Moment()
"""The moment of a call outside of a training."""


class Partial(Protocol):
    """The stored progress of the long computations of one row of a record.

    The progress is written to disk from time to time, so a killed run loses only seconds of work.
    A row always starts its computations in the same order, so a number identifies each of them.
    """

    def take(self) -> tuple[int, State]:
        """Return the number of the next computation and its stored state, {} if there is none."""
        ...

    def keep(self, number: int, state: State) -> None:
        """Store the state of the computation with this number, if the last write is old enough."""
        ...


class KeepsNothing:
    """A Partial that stores nothing."""

    def take(self) -> tuple[int, State]:
        """Return number 0 and no state."""
        return 0, {}

    def keep(self, number: int, state: State) -> None:
        """Do nothing."""


@runtime_checkable
class Estimator(Protocol):
    """A function of a loss and a point that returns an estimate of a gradient.

    ``target`` names the gradient that it estimates. ``true``: that of the loss itself. ``box``:
    coordinate i is the derivative of the loss smoothed along i alone. ``cube``: as box, and every
    other coordinate moves at random by about sigma. ``gaussian``, ``ball``: that of the loss
    smoothed over one. ``stochastic``: that of a stochastic network's expected loss. ``surrogate``:
    a surrogate, the gradient of no loss. ``none``: no gradient; a null, or a step direction.
    """

    @property
    def target(self) -> str:
        """Return true, box, cube, gaussian, ball, stochastic, surrogate or none."""
        ...

    def init(self, params: Params) -> State:
        """Return the state before the first call."""
        ...

    def __call__(
        self,
        objective: Any,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return an estimate of the gradient at a point.

        Args:
            objective: the loss, an `sa.objective.objective.Objective`.
            params: the point.
            state: what ``init`` or the last call returned.
            generator: the only source of random numbers.
            at: the moment of the training.

        """
        ...


@runtime_checkable
class Analysis(Protocol):
    """A measurement of an estimate. It draws random numbers only from its own generator."""

    def __call__(
        self,
        objective: Any,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return numbers or curves, with keys that begin with the name of the analysis.

        Args:
            objective: the loss.
            params: the point.
            estimate: the estimate at this point.
            generator: the only source of random numbers.
            at: the moment at which the estimate was made; a further call of an estimator gets it.

        """
        ...


class Hooks:
    """Optional methods and attributes of components, with defaults that do nothing.

    A class defines those that it needs. `called` and `trait` return them, or the default.
    `sa.network.traits.Traits` lists the attributes of quantizers.

    Attributes:
        own_step: (estimators) whether the gradient is a step that the estimator has scaled itself.
        one_backward: (estimators) whether the gradient is one back-propagation and nothing else.
        surrogate: (estimators) name of the slope that replaces the derivative of a step; or None.
        surrogates: (estimators) names of such slopes, if there are several.
        lr: (analyses) learning rate of the optimizer that the analysis assumes. A training replaces
            it by the rate of the step. None if the analysis assumes no rate.
        between: (analyses) whether the analysis compares two finished trainings.
        follows: (analyses) whether the analysis needs the points that a training has stored.
        laws: (estimators) law that the estimator breaks on purpose -> the reason (`sa.testing`).
        outputs: (datasets) how many numbers a target has; None if it does not matter.
        criterion: (models) the only criterion that fits the model; None if several fit.

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
        """Raise ValueError if an estimator does not work in this training.

        settings: those of the optimizer. batch_size: rows of a minibatch; None for all rows.
        """

    def takes(self, dataset: "Dataset") -> None:
        """Raise ValueError if an analysis does not work with this dataset."""

    def check(self) -> None:
        """Raise MissingData if the files of a dataset are not on this machine."""

    def clean(self) -> "Dataset | None":
        """Return the dataset with correct labels, if this one spoils labels; else None."""
        return None

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return rows (label, text) for a terminal about the numbers of an analysis in a result."""
        return []


def trait(component: object, name: str) -> Any:
    """Return a component's value of an attribute of `Hooks`; the default if it defines none."""
    # looked up by name, because a class does not have to inherit from Hooks
    return getattr(component, name, getattr(Hooks(), name))


def called(component: object, hook: str, *args: Any) -> Any:
    """Call a hook of `Hooks` on a component and return its result; a default does nothing."""
    return trait(component, hook)(*args)


def label(component: object) -> str:
    """Return the name of a component: its option, or its class in small letters.

    >>> label(Slots(abs, abs))
    'slots'
    """
    name, option = type(component).__name__.lower(), type(component).__module__.rpartition(".")[2]
    return option if option.replace("_", "") == name else name


class Diverged(ArithmeticError):
    """A measured number is not finite at this point. The message says which."""


class MissingData(Exception):
    """The files of a dataset are not on this machine. The message says what to do."""


class BadData(ValueError):
    """A dataset has rows that cannot be used. The message names the file and the row."""


class Splits(NamedTuple):
    """The rows of a dataset.

    Targets may have 0 columns. Then the task (`sa.objective.task`) computes them.

    Args:
        train: rows to learn from.
        test: held-out rows.

    """

    train: Batch
    test: Batch


@runtime_checkable
class Dataset(Protocol):
    """A source of rows to train and to test with.

    Some datasets also have hooks (`Hooks`): ``check`` if it reads files, ``outputs`` if its targets
    are numbers, ``clean`` if it spoils labels.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input."""
        ...

    @property
    def classes(self) -> int | None:
        """Return the number of classes; None if the targets are numbers (regression)."""
        ...

    @property
    def rows(self) -> int:
        """Return the number of training rows."""
        ...

    def load(self, generator: torch.Generator) -> Splits:
        """Return the training and the test rows, in float64 on the CPU."""
        ...


@runtime_checkable
class Hashed(Protocol):
    """A dataset of files, which a run's identity knows by their content and not by their path.

    It has the settings ``path`` and ``sha``. ``sha`` is the hash of the content. It is '' until the
    configuration is resolved.
    """

    def digest(self) -> str:
        """Return the hash of the content of the files; raise MissingData or BadData."""
        ...


@runtime_checkable
class Model(Protocol):
    """A description of a network, which ``build`` makes.

    A model whose output is a loss itself has the attribute ``criterion`` (`Hooks`).
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input."""
        ...

    @property
    def outputs(self) -> int:
        """Return the number of outputs."""
        ...

    def build(self, generator: torch.Generator) -> torch.nn.Module:
        """Return the network. Its start depends on the generator alone."""
        ...


RowLoss = Callable[[Params, Batch], Tensor]
"""(point, batch) -> the loss of each row, (rows,)."""
