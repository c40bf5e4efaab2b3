"""The slopes of the straight-through family: multipliers of a step's backward."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sa.surrogate import Rule

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
