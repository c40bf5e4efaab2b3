"""The laws of every room, which your own classes must keep; `sa check MODULE:CLASS` reports them.

Each function returns the laws that a component breaks, law -> what is wrong; {} if it keeps them
all. A class that breaks a law on purpose says so: ``laws = {"unbiased": "it is a displacement"}``.
An excuse that is not needed counts as broken: nothing is excused by habit.
The laws are imported only when they are called, because pytest loads this package at every start.

>>> import sa
>>> sa.testing.check_quantizer(sa.Sign)
{}
"""

from collections.abc import Callable
from typing import Any


def check_estimator(make: Callable[[], Any]) -> dict[str, str]:
    """Return the laws that an estimator breaks: law -> what is wrong; empty if it keeps them all.

    The laws are: ``target`` is declared; ``shapes``, dtypes and names of the gradient are the
    point's, in float32 too; it ``repeats`` with the same generator, and draws from nothing else;
    the point stays ``untouched``; ``evals`` are those that were spent; it is ``unbiased`` within 4
    standard errors of at most 150 estimates; a ``constant`` added to the loss changes nothing; its
    ``scale`` is that of the loss; ``points`` may have any layout, as 0-dim and transposed tensors
    do. The loss is a quadratic, or a small network if ``requires`` accepts no function. Estimators
    of target ``stochastic`` get random units, whose mean gradient is known exactly.

    >>> from sa.estimator.nes import NES
    >>> check_estimator(NES)
    {}

    Args:
        make: makes the estimator: its class, or a function without arguments.

    """
    from sa.testing.broken import broken_by
    from sa.testing.estimator import LAWS

    return broken_by(make, LAWS)


def check_quantizer(make: Callable[[], Any]) -> dict[str, str]:
    """Return the laws that a quantizer breaks.

    The laws are: ``shapes`` and dtypes stay; it ``repeats`` and leaves its input alone; under
    backward ``rules`` its output stays and a gradient comes through; outputs are ``finite``; it has
    no more ``levels`` than it declares; a declared ``step`` is the computed one; ``stacks`` of
    inputs (torch.vmap) give the same.

    Args:
        make: makes the quantizer: its class, or a function without arguments.

    """
    from sa.testing.broken import broken_by
    from sa.testing.quantizer import LAWS

    return broken_by(make, LAWS)


def check_model(make: Callable[[], Any]) -> dict[str, str]:
    """Return the laws that a model breaks.

    The laws are: it ``repeats`` with the same generator; ``outputs`` are (rows, outputs) in both
    dtypes; rows are ``independent`` in eval mode; it ``trains``: a straight-through gradient
    reaches every parameter; ``stacks`` of points (torch.vmap) give the same outputs.

    Args:
        make: makes the model: its class, or a function without arguments.

    """
    from sa.testing.broken import broken_by
    from sa.testing.model import LAWS

    return broken_by(make, LAWS)


def check_dataset(make: Callable[[], Any]) -> dict[str, str]:
    """Return the laws that a dataset breaks.

    The laws are: it ``repeats`` with the same generator; ``shapes`` and counts are as declared;
    everything is ``finite``; ``targets`` are class numbers, or numbers in columns.

    Args:
        make: makes the dataset: its class, or a function without arguments.

    """
    from sa.testing.broken import broken_by
    from sa.testing.dataset import LAWS

    return broken_by(make, LAWS)


def check_analysis(make: Callable[[], Any]) -> dict[str, str]:
    """Return the laws that an analysis breaks.

    The laws are: it returns flat ``numbers`` under one name; it ``repeats`` with the same
    generator; point and gradient stay ``untouched``.

    Args:
        make: makes the analysis: its class, or a function without arguments.

    """
    from sa.testing.analysis import LAWS
    from sa.testing.broken import broken_by

    return broken_by(make, LAWS)
