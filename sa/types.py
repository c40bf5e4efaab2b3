"""Types that every package of sa shares: parameters, batches, estimates and protocols."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

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


class Diverged(ArithmeticError):
    """A measured number is not finite at this point. The message says which."""


class MissingData(Exception):
    """The files of a dataset are not on this machine. The message says what to do."""


class BadData(ValueError):
    """A dataset has rows that cannot be used. The message names the file and the row."""


class Splits(NamedTuple):
    """The rows of a dataset.

    Targets may have 0 columns. Then `sa.objective.prepare` computes them with a second network.

    Args:
        train: rows to learn from.
        test: held-out rows.

    """

    train: Batch
    test: Batch


@runtime_checkable
class Dataset(Protocol):
    """A source of rows to train and to test with.

    Some datasets also have hooks (`sa.network.hooks.Hooks`): ``check`` if it reads files,
    ``outputs`` if its targets are numbers, ``clean`` if it spoils labels, ``fresh`` and ``draw`` if
    every step has new rows, ``scale`` if ``augment`` may crop and flip its images.
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
