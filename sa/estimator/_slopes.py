"""The slopes of the straight-through family: multipliers of a step's backward."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sa.surrogate import Rule

# Multipliers m(a) of dL/da = m(a) dL/ds, s = sign(a), as published. Boundaries are explicit masks
# because torch.clamp and hardtanh disagree at the border. "Height" is the integral of m over the
# line; it is 2, that of the sign step, unless the docstring names another number.


def identity(a: Tensor) -> Tensor:
    """Return 1 (Hinton 2012; Bengio et al. 2013); infinite height."""
    return torch.ones_like(a)


def clipped(a: Tensor, scale: float) -> Tensor:
    """Return 1 if |a| <= c, else 0, c = scale (Courbariaux et al. 2016); height 2 c."""
    return (a.abs() <= scale).to(a.dtype)


def steep(a: Tensor, scale: float) -> Tensor:
    """Return 1/c if |a| <= c, else 0, c = scale: ``clipped`` with height 2 for every c."""
    return clipped(a, scale) / scale


def relu(a: Tensor) -> Tensor:
    """Return 1 if a > 0, else 0: for states 0 and 1 (Yin et al., ICLR 2019); infinite height."""
    return (a > 0).to(a.dtype)


def clipped_relu(a: Tensor) -> Tensor:
    """Return 1 if 0 < a < 1, else 0: for states 0 and 1; height 1.

    Cai et al., CVPR 2017; Yin et al., ICLR 2019.
    """
    return ((a > 0) & (a < 1)).to(a.dtype)


def tanh(a: Tensor, scale: float) -> Tensor:
    """Return the slope of the hyperbolic tangent of k a, k = scale."""
    return scale * (1 - torch.tanh(scale * a) ** 2)


def sigmoid(a: Tensor, scale: float) -> Tensor:
    """Return 2 k F'(k a), F logistic, k = scale: the slope of 2 F(k a) - 1."""
    u = torch.sigmoid(scale * a)
    return 2 * scale * u * (1 - u)


def poly(a: Tensor, scale: float) -> Tensor:
    """Return max(0, 2 - 2 |a| / scale) / scale: ApproxSign (Bi-Real Net, Liu et al., ECCV 2018)."""
    return (2 - 2 * a.abs() / scale).clamp(min=0) / scale


def swish(a: Tensor, scale: float) -> Tensor:
    """Return b (2 - b a tanh(b a / 2)) / (1 + cosh(b a)), b = scale: SwishSign of BNN+.

    Darabi et al., arXiv 1812.11800, 2018.
    """
    # cosh overflows for |b a| > 700 in float64, 88 in float32, where m is 0 to all digits
    u = (scale * a).clamp(-80, 80)
    return scale * (2 - u * torch.tanh(u / 2)) / (1 + torch.cosh(u))


def ede(a: Tensor, scale: float) -> Tensor:
    """Return the slope of k tanh(t a), k = max(1/t, 1): IR-Net (Qin et al., CVPR 2020); height 2 k.

    Here t is the scale. Over a training it grows geometrically, from 0.1 to the configured scale.
    """
    return max(1 / scale, 1.0) * tanh(a, scale)


def reste(a: Tensor, scale: float) -> Tensor:
    """Return the slope of sign(a) |a|^(1/o) for |a| <= 1.5, and of its chord for |a| <= 0.1.

    This is ReSTE (Wu et al., ICCV 2023). Here o is the scale, and the height is 2 * 1.5^(1/o). Over
    a training o grows linearly from 1, which is the window |a| <= 1.5, to the configured scale.
    """
    m, t, power = 0.1, 1.5, 1 / scale
    size = a.abs()
    slope = torch.where(size <= m, m ** (power - 1), power * size ** (power - 1))
    return torch.where(size <= t, slope, 0)


def dsq(a: Tensor, scale: float) -> Tensor:
    """Return the slope of tanh(k a / 2) / (1 - alpha) if |a| <= 1, else 0 (DSQ, ICCV 2019).

    alpha = scale < 1 is the distance of tanh(k/2) from 1, so k = ln(2/alpha - 1): a small alpha is
    steep (Gong et al.).
    """
    k = math.log(2 / scale - 1)
    return tanh(a, k / 2) / (1 - scale) * (a.abs() <= 1)


def dspike(a: Tensor, scale: float) -> Tensor:
    """Return the slope of tanh(b a) / (2 tanh(b/2)) if |a| <= 1/2, else 0, b = scale.

    For spikes, which are steps from 0 to 1: height 1 (Li et al., NeurIPS 2021).
    """
    return tanh(a, scale) / (2 * math.tanh(scale / 2)) * (a.abs() <= 0.5)


def atan(a: Tensor, scale: float) -> Tensor:
    """Return the slope of arctan(pi k a / 2) / pi, k = scale (Fang et al. 2021); height 1."""
    return scale / 2 / (1 + (math.pi / 2 * scale * a) ** 2)


def fast_sigmoid(a: Tensor, scale: float) -> Tensor:
    """Return 1 / (1 + k |a|)^2, k = scale: SuperSpike (Zenke & Ganguli 2018); height 2/k.

    k = 25 is the default of snnTorch (Eshraghian et al. 2023).
    """
    return 1 / (1 + scale * a.abs()) ** 2


Name = Literal[
    "identity", "clipped", "steep", "relu", "clipped_relu", "tanh", "sigmoid", "poly", "swish",
    "ede", "reste", "dsq", "dspike", "atan", "fast_sigmoid",
]  # fmt: skip

SURROGATES: dict[Name, tuple[Callable[..., Tensor], float | None]] = {
    "identity": (identity, None),
    "clipped": (clipped, 1.0),
    "steep": (steep, 0.5),
    "relu": (relu, None),
    "clipped_relu": (clipped_relu, None),
    "tanh": (tanh, 1.0),
    "sigmoid": (sigmoid, 1.0),
    "poly": (poly, 1.0),
    "swish": (swish, 5.0),
    "ede": (ede, 10.0),
    "reste": (reste, 3.0),
    "dsq": (dsq, 0.4),
    "dspike": (dspike, 3.0),
    "atan": (atan, 2.0),
    "fast_sigmoid": (fast_sigmoid, 25.0),
}
"""Name -> (multiplier, its usual scale; None if it has no scale)."""

SCHEDULES: dict[Name, Callable[[float, float], float]] = {
    "ede": lambda scale, p: 0.1 * (scale / 0.1) ** p,
    "reste": lambda scale, p: 1 + p * (scale - 1),
}
"""Name -> (configured scale, share p of the training that is done) -> the scale in force."""


def rule(name: Name, scale: float | None = None, progress: float = 0.0) -> Rule:
    """Return the named multiplier as a backward rule.

    Args:
        name: name of the slope.
        scale: its scale, > 0; None for the usual one.
        progress: share of the training that is done, in [0, 1], for slopes with a schedule.

    """
    multiplier, default = SURROGATES[name]
    if default is None:
        if scale is not None:
            raise ValueError(f"surrogate={name} has no scale, but scale is {scale}; set scale=null")
        return multiplier
    value = default if scale is None else scale
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"scale={value}: expected a finite number > 0")
    if name == "dsq" and value >= 1:
        raise ValueError(f"scale={value}: the alpha of surrogate=dsq must be below 1, e.g. 0.4")
    if name in SCHEDULES:
        value = SCHEDULES[name](value, progress)
    return lambda a: multiplier(a, value)
