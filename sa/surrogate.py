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
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

Rule = Callable[[Tensor], Tensor]
"""Multiplier m(a) of dL/da = m(a) dL/ds for a step s of height 2, from -1 to +1, at a = 0."""

Quantized = TypeVar("Quantized")

Unit = Callable[[int, Tensor], Tensor]
"""(k, logits) -> the states, in [-1, 1], of the k-th layer of random units of a forward.

k < 0: units that belong to no row, of weights."""

_RULE: ContextVar[Rule | None] = ContextVar("rule", default=None)
_Units = tuple[Unit, Iterator[int], Iterator[int]]
_UNIT: ContextVar[_Units | None] = ContextVar("unit", default=None)


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
    if has_torch_function_unary(x):  # torch.fx traces a network: a step is one operation
        return handle_torch_function(step, (x,), x, fn)
    if not torch.is_grad_enabled():
        return fn(x)
    return _Step.apply(x, fn, _RULE.get())


def hard_sign(x: Tensor) -> Tensor:
    """Return +1 where x >= 0, else -1, and NaN where x is NaN. So sign(0) = +1 everywhere."""
    x = x.detach()
    return x.clamp(1, 1).add_(x < 0, alpha=-2)  # a NaN passes through the clamp


def sign(x: Tensor) -> Tensor:
    """The sign step through the seam; for losses written by hand in scripts and notebooks."""
    if has_torch_function_unary(x):
        return handle_torch_function(sign, (x,), x)
    return step(x, hard_sign)


def _nearest(x: Tensor) -> Tensor:
    low = torch.floor(x)  # floor(x + 1/2) takes the number just below 1/2 up
    return low + (x - low >= 0.5).to(x.dtype)


def rounded(x: Tensor, stochastic: bool = False) -> Tensor:
    """The nearest whole number, halves up; through the seam.

    Around its nearest threshold a rounding is a step of height 1: the rule sees the distance to
    it in half steps, a = 2 (x - floor(x)) - 1 in [-1, 1), so that slopes repeat with x.

    stochastic: inside ``sampling`` floor(x) + b, b a random unit, 0 or 1, of mean x - floor(x):
    mean x, variance f (1 - f) with f = x - floor(x).
    """
    if stochastic and _UNIT.get() is not None:
        low = torch.floor(x).detach()
        share = x - low
        up = bernoulli(logit(share), 2 * share - 1)
        return low + (up + 1) / 2
    if not torch.is_grad_enabled():
        return _nearest(x)
    rule = _RULE.get()
    local = None if rule is None else lambda u: rule(2 * (u - torch.floor(u)) - 1)
    return _Step.apply(x, _nearest, local)


def _ternary(u: Tensor) -> Tensor:
    return u.clamp(0, 0) + (u > 1).to(u.dtype) - (u < -1).to(u.dtype)  # NaN stays NaN


def ternary(x: Tensor, threshold: Tensor) -> Tensor:
    """The sign of x where |x| > threshold, else 0; through the seam.

    Two steps of height 1: the rule m sees the distance to the one on x's side in thresholds, a =
    (x -+ threshold)/threshold, and dL/dx = m(a) dL/dt.
    """
    u = x.detach() / torch.where(threshold == 0, 1.0, threshold)
    if not torch.is_grad_enabled():
        return _ternary(u)
    rule = _RULE.get()
    local = None if rule is None else lambda u: rule(u - hard_sign(u))
    return _Step.apply(u + (x - x.detach()), _ternary, local)  # in thresholds, of x's derivative


def logit(p: Tensor) -> Tensor:
    """log(p / (1 - p)), finite: p is kept a rounding error away from 0 and 1."""
    return torch.logit(p, torch.finfo(p.dtype).eps)


@contextmanager
def sampling(unit: Unit) -> Iterator[None]:
    """For one forward: every layer of random units inside is ``unit(k, logits)``, k = 0, 1, ...

    Units of weights are no layers of rows: k = -1, -2, ...
    """
    token = _UNIT.set((unit, itertools.count(), itertools.count(-1, -1)))
    try:
        yield
    finally:
        _UNIT.reset(token)


def weights(quantize: Callable[[Tensor], Quantized], w: Tensor) -> Quantized:
    """quantize(w), of any kind, whose random units all rows share."""
    taken = _UNIT.get()
    if taken is None:
        return quantize(w)
    token = _UNIT.set((taken[0], taken[2], taken[2]))
    try:
        return quantize(w)
    finally:
        _UNIT.reset(token)


Draw = Callable[[Tensor], Tensor]
"""Gradients of one layer (rows, ...) -> uniform numbers in [0, 1), of their shape and dtype."""

_DRAWS: ContextVar[Callable[[object], Draw] | None] = ContextVar("draws", default=None)
_EXACT: ContextVar[bool] = ContextVar("exact", default=False)


@contextmanager
def drawing(draws: Callable[[object], Draw]) -> Iterator[None]:
    """Let the gradients of what runs inside be rounded at random by ``draws(layer)``."""
    token = _DRAWS.set(draws)
    try:
        yield
    finally:
        _DRAWS.reset(token)


@contextmanager
def exact_gradients() -> Iterator[None]:
    """Leave the gradients of what runs inside as they are: nothing back-propagated is quantized."""
    token = _EXACT.set(True)
    try:
        yield
    finally:
        _EXACT.reset(token)


class _Back(torch.autograd.Function):
    """y, whose gradient g goes back as quantize(g, stacked).

    stacked: whether g has networks first, as under vmap, where no hook of a tensor is called.
    """

    @staticmethod
    def forward(y: Tensor, quantize: Callable[[Tensor, bool], Tensor], stacked: bool) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.quantize, ctx.stacked = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.quantize(grad, ctx.stacked), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.view_as(tangent)  # forward mode back-propagates nothing

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], y: Tensor, quantize: Any, stacked: bool
    ) -> tuple[Tensor, int | None]:
        if dims[0] is None:
            return _Back.apply(y, quantize, stacked), None
        return _Back.apply(y.movedim(dims[0], 0), quantize, True), 0


def back(y: Tensor, quantize: Callable[[Tensor], Tensor], layer: object) -> Tensor:
    """Return y (rows, ...), whose gradient is quantized in every backward, never in a forward.

    A quantizer that is random takes the numbers that ``drawing`` gives this layer; where nothing
    does, as in a training loop of your own, it takes those of torch's default generator.
    """
    if _EXACT.get() or not torch.is_grad_enabled():
        return y
    draws = _DRAWS.get()  # a backward may run later, and on CUDA in a thread of its own
    draw = draws(layer) if draws else torch.rand_like

    def quantized(g: Tensor, stacked: bool) -> Tensor:
        wide = g.float() if g.dtype in (torch.bfloat16, torch.float16) else g
        if not stacked:
            return _drawn(quantize, wide, lambda: draw(wide)).to(g.dtype)
        asked = []  # no number can be drawn inside vmap: the first network says if one is needed

        def ask() -> Tensor:
            asked.append(True)
            return torch.zeros_like(wide[0])

        _drawn(quantize, wide[0], ask)
        numbers = draw(wide) if asked else torch.zeros_like(wide)
        each = torch.vmap(lambda one, u: _drawn(quantize, one, lambda: u))
        return each(wide, numbers).to(g.dtype)

    return _Back.apply(y, quantized, False)


def _drawn(quantize: Callable[[Tensor], Tensor], g: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """quantize(g), its random units up where a uniform number is below their probability."""
    with sampling(lambda _, logits: hard_sign(logits - logit(draw().reshape(logits.shape)))):
        return quantize(g)


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
