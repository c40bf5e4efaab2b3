"""Optional methods and attributes of components, their defaults, and the names of components."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from sa.types import Batch, Dataset, Params


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
        remembers: (analyses) whether the analysis compares with its own earlier results in the
            training; then ``after(state, ...)`` is called, which returns its numbers and its state.
        laws: law of `sa.testing` that the component breaks on purpose -> the reason.
        outputs: (datasets) how many numbers a target has; None if it does not matter.
        fresh: (datasets) whether every step of a training has new rows, from ``draw``.
        criterion: (models) the only criterion that fits the model; None if several fit.

    """

    own_step: ClassVar[bool] = False
    one_backward: ClassVar[bool] = False
    surrogate: str | None = None
    surrogates: Sequence[str] = ()
    lr: float | None = None
    between: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    laws: ClassVar[Mapping[str, str]] = {}
    outputs: int | None = None
    fresh: bool = False
    criterion: str | None = None

    def requires(self, structure: Any) -> None:
        """Raise ValueError if the component does not work with this structure of a network."""

    def fits(self, params: Params, memory: int = 0) -> None:
        """Raise ValueError if the component does not work at points like this.

        Args:
            params: the point.
            memory: bytes that one evaluation may use; 0 for estimators.

        """

    def trains(
        self,
        steps: int,
        optimizer: type[torch.optim.Optimizer],
        settings: Mapping[str, Any],
        batch_size: int | None,
    ) -> None:
        """Raise ValueError if an estimator does not work in this training.

        Args:
            steps: number of steps.
            optimizer: class of the optimizer.
            settings: settings of the optimizer.
            batch_size: rows of a minibatch; None for all rows.

        """

    def takes(self, dataset: "Dataset") -> None:
        """Raise ValueError if an analysis does not work with this dataset."""

    def draw(self, rows: int, generator: torch.Generator) -> "Batch":
        """Return new training rows of a dataset that is ``fresh``, as many as ``rows``."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise MissingData if the files of a dataset are not on this machine."""

    def scale(self) -> "tuple[torch.Tensor, torch.Tensor] | None":
        """Return (mean, deviation) that a dataset of images was standardised with, or None.

        Both fit (channels, height, width). Black was 0 before. Without them there are no crops.
        """
        return None

    def clean(self) -> "Dataset | None":
        """Return the dataset with correct labels, if this one spoils labels; else None."""
        return None

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return rows (label, text) for a terminal about the numbers of an analysis in a result."""
        return []


def trait(component: object, name: str) -> Any:
    """Return a component's value of an attribute of `Hooks`; the default if it defines none."""
    # getattr, because a class does not have to inherit from Hooks
    return getattr(component, name, getattr(Hooks(), name))


def called(component: object, hook: str, *args: Any) -> Any:
    """Call a hook of `Hooks` on a component and return its result; a default does nothing."""
    return trait(component, hook)(*args)


def label(component: object) -> str:
    """Return the name of a component: its option, or its class in small letters.

    >>> from sa.types import Slots
    >>> label(Slots(abs, abs))
    'slots'
    """
    name, option = type(component).__name__.lower(), type(component).__module__.rpartition(".")[2]
    return option if option.replace("_", "") == name else name
