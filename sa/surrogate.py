"""Step functions with a backward rule that is set from outside, and random units.

``step(x, fn)`` computes fn(x). Its derivative is the truth, zero, unless an estimator sets a rule
m: the steps that run inside ``with backward(m): ...`` back-propagate dL/dx = m(x) dL/dfn. So no
straight-through gradient can be hidden in an estimate that uses values of the loss alone.

``bernoulli(logits)`` makes units that are random in training. Inside ``with sampling(unit): ...``
the function ``unit`` gives their states. Outside they are at their most probable state, a sign.
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
"""A backward rule: a -> m(a), in dL/da = m(a) dL/ds, for the step s(a) from -1 to +1 at a = 0."""

Quantized = TypeVar("Quantized")

Unit = Callable[[int, Tensor], Tensor]
"""(k, logits) -> the states, in [-1, 1], of layer k of the random units of one forward.

Layers of activations are k = 0, 1, ... Units of weights are k = -1, -2, ...: all rows share them.
"""

_RULE: ContextVar[Rule | None] = ContextVar("rule", default=None)
_Units = tuple[Unit, Iterator[int], Iterator[int]]
_UNIT: ContextVar[_Units | None] = ContextVar("unit", default=None)


@contextmanager
def backward(rule: Rule) -> Iterator[None]:
    """Make every step that runs inside back-propagate ``rule(x) * grad`` instead of zero."""
    token = _RULE.set(rule)
    try:
        yield
    finally:
        _RULE.reset(token)


class _Step(torch.autograd.Function):
    """fn(x), with the multiplier of a rule as its derivative; None is the derivative zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, fn: Callable[[Tensor], Tensor], rule: Rule | None) -> Tensor:
        return fn(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # Store the rule now: CUDA runs a backward in another thread, which does not see the
        # context variable of this one.
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.rule = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return (torch.zeros_like(grad) if ctx.rule is None else grad * ctx.rule(x)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (x,) = ctx.saved_tensors  # forward mode uses the same multiplier
        return torch.zeros_like(tangent) if ctx.rule is None else tangent * ctx.rule(x)


def step(x: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Return fn(x), whose derivative is the backward rule that is set now; zero without a rule.

    >>> step(torch.tensor([-0.2, 0.7, 1.6]), torch.floor)
    tensor([-1.,  0.,  1.])

    Args:
        x: any shape.
        fn: an elementwise, piecewise constant function.

    """
    if has_torch_function_unary(x):  # torch.fx is tracing: record the step as one operation
        return handle_torch_function(step, (x,), x, fn)
    if not torch.is_grad_enabled():
        return fn(x)
    return _Step.apply(x, fn, _RULE.get())


def hard_sign(x: Tensor) -> Tensor:
    """Return +1 where x >= 0, else -1, and NaN where x is NaN. So sign(0) = +1 everywhere."""
    x = x.detach()
    return x.clamp(1, 1).add_(x < 0, alpha=-2)  # a NaN passes through the clamp


def sign(x: Tensor) -> Tensor:
    """Return the sign of x, +1 at 0, as a `step`; for losses that you write by hand.

    >>> sign(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([-1.,  1.,  1.])
    """
    if has_torch_function_unary(x):
        return handle_torch_function(sign, (x,), x)
    return step(x, hard_sign)


def _nearest(x: Tensor) -> Tensor:
    """Return the nearest whole number, halves up."""
    low = torch.floor(x)  # floor(x + 1/2) would round the largest number below 1/2 up
    return low + (x - low >= 0.5).to(x.dtype)


def rounded(x: Tensor, stochastic: bool = False) -> Tensor:
    """Return the nearest whole number, halves up, as a `step`.

    Around its nearest threshold a rounding is a step of height 1. The rule gets the distance to
    this threshold in half steps, a = 2 (x - floor(x)) - 1 in [-1, 1), so slopes repeat with x.

    Args:
        x: any shape.
        stochastic: inside ``sampling``, return floor(x) + b instead. b is a random unit, 0 or 1,
            with mean f = x - floor(x). The result has mean x and variance f (1 - f).

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
    """Return the sign of u if |u| > 1, else 0; NaN for NaN."""
    return u.clamp(0, 0) + (u > 1).to(u.dtype) - (u < -1).to(u.dtype)


def ternary(x: Tensor, threshold: Tensor) -> Tensor:
    """Return t, the sign of x if |x| > threshold and else 0, as a `step`.

    These are two steps of height 1. The rule m gets the distance to the one on the side of x, in
    units of the threshold: a = (x - sign(x) threshold)/threshold, and dL/dx = m(a) dL/dt.

    Args:
        x: any shape.
        threshold: >= 0; its shape broadcasts against x.

    """
    u = x.detach() / torch.where(threshold == 0, 1.0, threshold)
    if not torch.is_grad_enabled():
        return _ternary(u)
    rule = _RULE.get()
    local = None if rule is None else lambda u: rule(u - hard_sign(u))
    return _Step.apply(u + (x - x.detach()), _ternary, local)  # value u, derivative that of x


def logit(p: Tensor) -> Tensor:
    """Return log(p / (1 - p)), finite: p is first clamped to [eps, 1 - eps] of its dtype."""
    return torch.logit(p, torch.finfo(p.dtype).eps)


@contextmanager
def sampling(unit: Unit) -> Iterator[None]:
    """Let ``unit`` give the states of all random units that run inside, in one forward.

    Args:
        unit: is called as unit(k, logits): k = 0, 1, ... for the layers of activations, and k = -1,
            -2, ... for weights.

    """
    token = _UNIT.set((unit, itertools.count(), itertools.count(-1, -1)))
    try:
        yield
    finally:
        _UNIT.reset(token)


def weights(quantize: Callable[[Tensor], Quantized], w: Tensor) -> Quantized:
    """Return quantize(w), whose random units are those of weights: all rows share them."""
    taken = _UNIT.get()
    if taken is None:
        return quantize(w)
    token = _UNIT.set((taken[0], taken[2], taken[2]))
    try:
        return quantize(w)
    finally:
        _UNIT.reset(token)


Draw = Callable[[Tensor], Tensor]
"""Gradient of one layer, (rows, ...) -> uniform numbers in [0, 1) of its shape and dtype."""

_DRAWS: ContextVar[Callable[[object], Draw] | None] = ContextVar("draws", default=None)
_EXACT: ContextVar[bool] = ContextVar("exact", default=False)


@contextmanager
def drawing(draws: Callable[[object], Draw]) -> Iterator[None]:
    """Let ``draws(layer)`` give the random numbers that round the gradients of what runs inside."""
    token = _DRAWS.set(draws)
    try:
        yield
    finally:
        _DRAWS.reset(token)


@contextmanager
def exact_gradients() -> Iterator[None]:
    """Switch the quantizers of gradients off for what runs inside."""
    token = _EXACT.set(True)
    try:
        yield
    finally:
        _EXACT.reset(token)


class _Back(torch.autograd.Function):
    """y, whose gradient g is replaced by quantize(g, stacked).

    stacked: whether the first axis of g is the networks of a vmap. A hook of the tensor y would not
    do, because vmap calls none.
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
    """Return y, whose gradient a backward quantizes.

    A random quantizer takes its numbers from the ``drawing`` around this call. Without one, as in a
    training loop of your own, it takes them from torch's default generator.

    Args:
        y: (rows, ...).
        quantize: the quantizer of the gradient.
        layer: the layer that y belongs to, for ``drawing``.

    """
    if _EXACT.get() or not torch.is_grad_enabled():
        return y
    draws = _DRAWS.get()  # now, because a backward runs later, and on CUDA in another thread
    draw = draws(layer) if draws else torch.rand_like

    def quantized(g: Tensor, stacked: bool) -> Tensor:
        wide = g.float() if g.dtype in (torch.bfloat16, torch.float16) else g
        if not stacked:
            return _drawn(quantize, wide, lambda: draw(wide)).to(g.dtype)
        asked = []  # vmap allows no draws: quantize the first network alone to see if it draws

        def ask() -> Tensor:
            asked.append(True)
            return torch.zeros_like(wide[0])

        _drawn(quantize, wide[0], ask)
        numbers = draw(wide) if asked else torch.zeros_like(wide)
        each = torch.vmap(lambda one, u: _drawn(quantize, one, lambda: u))
        return each(wide, numbers).to(g.dtype)

    return _Back.apply(y, quantized, False)


def _drawn(quantize: Callable[[Tensor], Tensor], g: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """Return quantize(g), with a random unit up if its uniform number is below its probability."""
    with sampling(lambda _, logits: hard_sign(logits - logit(draw().reshape(logits.shape)))):
        return quantize(g)


def bernoulli(logits: Tensor, x: Tensor | None = None) -> Tensor:
    """Return random units: +1 with probability 1/(1 + exp(-logits)), else -1, elementwise.

    ``sampling`` gives the states. Without it they are the sign of the logits. States that have a
    gradient (a relaxation) keep it. Other states are a `step` of x, which back-propagates the rule.

    Args:
        logits: any shape.
        x: what the states are a step of, of the same shape; None for the logits.

    """
    taken = _UNIT.get()
    if taken is None and x is None:  # a plain function of the logits, so forward mode works
        return step(logits, hard_sign)
    states = hard_sign(logits) if taken is None else taken[0](next(taken[1]), logits)
    if states.requires_grad:
        return states
    return step(logits if x is None else x, lambda _: states)
