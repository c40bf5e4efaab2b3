"""The slopes of the straight-through family: multipliers of a step's backward."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sa.surrogate import Rule

# Multipliers m(a) of dL/da = m(a) dL/ds, s = sign(a). Boundaries are explicit masks:
# torch.clamp and hardtanh disagree at the border. As published: where the integral of m over the
# line is not 2, the height of the sign step, the docstring says what it is.


def identity(a: Tensor) -> Tensor:
    """1 (Hinton 2012; Bengio et al. 2013); endless height."""
    return torch.ones_like(a)


def clipped(a: Tensor, scale: float) -> Tensor:
    """1 where |a| <= c, else 0, c = scale (Courbariaux et al. 2016); height 2 c."""
    return (a.abs() <= scale).to(a.dtype)


def steep(a: Tensor, scale: float) -> Tensor:
    """1/c where |a| <= c, else 0, c = scale: clipped of height 2 for every c."""
    return clipped(a, scale) / scale


def relu(a: Tensor) -> Tensor:
    """1 where a > 0, else 0: for states 0 and 1 (Yin et al. 2019); endless height."""
    return (a > 0).to(a.dtype)


def clipped_relu(a: Tensor) -> Tensor:
    """1 where 0 < a < 1, else 0: for states 0 and 1 (Cai 2017; Yin et al. 2019); height 1."""
    return ((a > 0) & (a < 1)).to(a.dtype)


def tanh(a: Tensor, scale: float) -> Tensor:
    """Slope of the hyperbolic tangent of k a, k = scale."""
    return scale * (1 - torch.tanh(scale * a) ** 2)


def sigmoid(a: Tensor, scale: float) -> Tensor:
    """2 k F'(k a), F logistic, k = scale: the slope of 2 F(k a) - 1."""
    u = torch.sigmoid(scale * a)
    return 2 * scale * u * (1 - u)


def poly(a: Tensor, scale: float) -> Tensor:
    """max(0, 2 - 2 |a| / scale) / scale: ApproxSign (Bi-Real Net, Liu et al. 2018)."""
    return (2 - 2 * a.abs() / scale).clamp(min=0) / scale


def swish(a: Tensor, scale: float) -> Tensor:
    """B (2 - b a tanh(b a / 2)) / (1 + cosh(b a)), b = scale: SwishSign (BNN+ 2018)."""
    # cosh overflows for |b a| > 700 in float64, 88 in float32, where m is 0 to all digits
    u = (scale * a).clamp(-80, 80)
    return scale * (2 - u * torch.tanh(u / 2)) / (1 + torch.cosh(u))


def ede(a: Tensor, scale: float) -> Tensor:
    """Slope of k tanh(t a), k = max(1/t, 1): IR-Net (Qin et al., CVPR 2020); height 2 k.

    t goes from 0.1 to scale, geometrically in the progress of training.
    """
    return max(1 / scale, 1.0) * tanh(a, scale)


def reste(a: Tensor, scale: float) -> Tensor:
    """Slope of sign(a) |a|^(1/o) up to |a| = 1.5, a chord where |a| <= 0.1: ReSTE (Wu et al. 2023).

    o goes from 1, the window |a| <= 1.5, to scale, linearly in the progress of training; height
    2 * 1.5^(1/o).
    """
    m, t, power = 0.1, 1.5, 1 / scale
    size = a.abs()
    slope = torch.where(size <= m, m ** (power - 1), power * size ** (power - 1))
    return torch.where(size <= t, slope, 0)


def dsq(a: Tensor, scale: float) -> Tensor:
    """Slope of tanh(k a / 2) / (1 - alpha) where |a| <= 1, else 0 (DSQ, Gong et al., ICCV 2019).

    alpha = scale < 1 is how far the ends stay from the states, tanh(k/2) = 1 - alpha, so that
    k = ln(2/alpha - 1): small is steep.
    """
    k = math.log(2 / scale - 1)
    return tanh(a, k / 2) / (1 - scale) * (a.abs() <= 1)


def dspike(a: Tensor, scale: float) -> Tensor:
    """Slope of tanh(b a) / (2 tanh(b/2)) where |a| <= 1/2, else 0, b = scale (Li et al. 2021).

    For spikes, steps from 0 to 1: height 1.
    """
    return tanh(a, scale) / (2 * math.tanh(scale / 2)) * (a.abs() <= 0.5)


def atan(a: Tensor, scale: float) -> Tensor:
    """Slope of arctan(pi k a / 2) / pi, k = scale (Fang et al. 2021); for spikes: height 1."""
    return scale / 2 / (1 + (math.pi / 2 * scale * a) ** 2)


def fast_sigmoid(a: Tensor, scale: float) -> Tensor:
    """1 / (1 + k |a|)^2, k = scale: SuperSpike (Zenke & Ganguli 2018); height 2/k.

    k = 25 is snnTorch's (Eshraghian et al. 2023).
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
"""Name -> (multiplier, the scale the field uses by default; None: it has none)."""

SCHEDULES: dict[Name, Callable[[float, float], float]] = {
    "ede": lambda scale, p: 0.1 * (scale / 0.1) ** p,
    "reste": lambda scale, p: 1 + p * (scale - 1),
}
"""Name -> the scale in force when the share p of the training is done, given the last one."""


def rule(name: Name, scale: float | None = None, progress: float = 0.0) -> Rule:
    """The named multiplier as a rule; scale > 0, None for the field's default.

    progress: how much of the training is done, in [0, 1], for the slopes with a schedule.
    """
    multiplier, default = SURROGATES[name]
    if default is None:
        if scale is not None:
            raise ValueError(f"surrogate={name} has no scale, but scale is {scale}; set scale=null")
        return multiplier
    value = default if scale is None else scale
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"surrogate scale is {value}; it must be a finite number > 0")
    if name == "dsq" and value >= 1:
        raise ValueError(f"scale is {value}; the alpha of surrogate=dsq must be below 1, e.g. 0.4")
    if name in SCHEDULES:
        value = SCHEDULES[name](value, progress)
    return lambda a: multiplier(a, value)
