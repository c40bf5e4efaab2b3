"""A step function whose backward rule can be swapped from outside: the seam of the project.

``step(x, fn)`` computes fn(x) and back-propagates the rule in force when it ran: by default the
truth, zero. An estimator puts a rule m in force for one backward, ``with backward(m): ...``, and
then dL/dx = m(x) dL/dfn. A hidden straight-through cannot sneak into a black-box estimate.

Units that are random in training, ``bernoulli(logits)``, take the states that ``with
sampling(unit): ...`` gives them; outside it they are at their most probable state, a sign.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Tensor], Tensor]
"""Multiplier m(a) of dL/da = m(a) dL/ds for a step s of height 2, from -1 to +1, at a = 0."""

Unit = Callable[[int, Tensor], Tensor]
"""(k, logits) -> the states, in [-1, 1], of the k-th layer of random units of a forward."""

_RULE: ContextVar[Rule | None] = ContextVar("rule", default=None)
_UNIT: ContextVar[tuple[Unit, Iterator[int]] | None] = ContextVar("unit", default=None)


@contextmanager
def backward(rule: Rule) -> Iterator[None]:
    """Every step that runs inside back-propagates ``rule(x) * grad`` instead of zero."""
    token = _RULE.set(rule)
    try:
        yield
    finally:
        _RULE.reset(token)


class _Step(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, fn: Callable[[Tensor], Tensor], rule: Rule | None) -> Tensor:
        return fn(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # The rule is kept from the forward: CUDA runs backwards in threads of its own,
        # which do not see this thread's context.
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.rule = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return (torch.zeros_like(grad) if ctx.rule is None else grad * ctx.rule(x)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (x,) = ctx.saved_tensors  # the same multiplier in forward mode
        return torch.zeros_like(tangent) if ctx.rule is None else tangent * ctx.rule(x)


def step(x: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """fn(x), elementwise and piecewise constant, with the rule in force as its backward."""
    if not torch.is_grad_enabled():
        return fn(x)
    return _Step.apply(x, fn, _RULE.get())


def hard_sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1: sign(0) = +1, decided once for the whole project."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def sign(x: Tensor) -> Tensor:
    """The sign step through the seam; for losses written by hand in scripts and notebooks."""
    return step(x, hard_sign)


def _nearest(x: Tensor) -> Tensor:
    low = torch.floor(x)  # floor(x + 1/2) takes the number just below 1/2 up
    return low + (x - low >= 0.5).to(x.dtype)


def rounded(x: Tensor) -> Tensor:
    """The nearest whole number, halves up; through the seam.

    Around its nearest threshold a rounding is a step of height 1: the rule sees the distance to
    it in half steps, a = 2 (x - floor(x)) - 1 in [-1, 1), so that slopes repeat with x.
    """
    if not torch.is_grad_enabled():
        return _nearest(x)
    rule = _RULE.get()
    local = None if rule is None else lambda u: rule(2 * (u - torch.floor(u)) - 1)
    return _Step.apply(x, _nearest, local)


@contextmanager
def sampling(unit: Unit) -> Iterator[None]:
    """For one forward: every layer of random units inside is ``unit(k, logits)``, k = 0, 1, ..."""
    token = _UNIT.set((unit, itertools.count()))
    try:
        yield
    finally:
        _UNIT.reset(token)


def bernoulli(logits: Tensor, x: Tensor | None = None) -> Tensor:
    """Random units: +1 with probability 1/(1 + exp(-logits)), else -1, elementwise.

    States that carry a gradient (a relaxation) keep it; hard states are a step of x (default: the
    logits), which back-propagates the rule in force. Outside ``sampling``: the sign of the logits.
    """
    taken = _UNIT.get()
    if taken is None and x is None:  # nothing closed over: forward mode can go through
        return step(logits, hard_sign)
    states = hard_sign(logits) if taken is None else taken[0](next(taken[1]), logits)
    if states.requires_grad:
        return states
    return step(logits if x is None else x, lambda _: states)
