"""A step function whose backward rule can be swapped from outside: the seam of the project.

``step(x, fn)`` computes fn(x) and back-propagates the rule in force when it ran: by default the
truth, zero. An estimator puts a rule m in force for one backward, ``with backward(m): ...``, and
then dL/dx = m(x) dL/dfn. A hidden straight-through cannot sneak into a black-box estimate.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Tensor], Tensor]

_RULE: ContextVar[Rule | None] = ContextVar("rule", default=None)


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
        ctx.rule = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return (torch.zeros_like(grad) if ctx.rule is None else grad * ctx.rule(x)), None, None


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


# Multipliers m(a) of dL/da = m(a) dL/ds, s = sign(a). Boundaries are explicit masks:
# torch.clamp and hardtanh disagree at the border.


def identity(a: Tensor, scale: float) -> Tensor:
    """1 (Hinton 2012; Bengio et al. 2013); scale is not used."""
    return torch.ones_like(a)


def clipped(a: Tensor, scale: float) -> Tensor:
    """1 where |a| <= scale, else 0 (Courbariaux et al. 2016)."""
    return (a.abs() <= scale).to(a.dtype)


def tanh(a: Tensor, scale: float) -> Tensor:
    """Slope of the hyperbolic tangent of k a, k = scale."""
    return scale * (1 - torch.tanh(scale * a) ** 2)


def poly(a: Tensor, scale: float) -> Tensor:
    """max(0, 2 - 2 |a| / scale) / scale: ApproxSign (Bi-Real Net, Liu et al. 2018)."""
    return (2 - 2 * a.abs() / scale).clamp(min=0) / scale


def swish(a: Tensor, scale: float) -> Tensor:
    """B (2 - b a tanh(b a / 2)) / (1 + cosh(b a)), b = scale: SwishSign (BNN+ 2018)."""
    # cosh overflows for |b a| > 700 in float64, 88 in float32, where m is 0 to all digits
    u = (scale * a).clamp(-80, 80)
    return scale * (2 - u * torch.tanh(u / 2)) / (1 + torch.cosh(u))


SURROGATES: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "identity": (identity, 1.0),
    "clipped": (clipped, 1.0),
    "tanh": (tanh, 1.0),
    "poly": (poly, 1.0),
    "swish": (swish, 5.0),
}
"""Name -> (multiplier, the scale the field uses by default)."""


def rule(name: str, scale: float | None = None) -> Rule:
    """The named multiplier as a rule; scale > 0, None for the field's default."""
    multiplier, default = SURROGATES[name]
    value = default if scale is None else scale
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"surrogate scale is {value}; it must be a finite number > 0")
    return lambda a: multiplier(a, value)
