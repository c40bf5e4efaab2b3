"""Noise that matches a slope: smoothing a step with it gives a function with this slope.

A slope m of a sign, with integral 2, is the derivative of E sign(w + z) if z has the density m/2.
So back-propagation with m computes the slope of the smoothed sign. A rounding is a row of steps of
height 1; its slope repeats, so it matches a density inside half a step on both sides.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.special import log_ndtr

from sa.estimator import _slopes
from sa.network import codes
from sa.network.read import quantized_weights
from sa.network.traits import component, traits
from sa.objective.objective import Objective
from sa.types import Params

Draw = Callable[[Tensor], Tensor]
"""Standard normal numbers -> numbers of another distribution with mean 0 and variance 1."""


def uniform(u: Tensor) -> Tensor:
    """Return numbers uniform in [-sqrt 3, sqrt 3]: the distribution function of u is uniform."""
    return math.sqrt(3) * torch.erf(u / math.sqrt(2))


def triangular(u: Tensor) -> Tensor:
    """Return numbers with density (1 - |z|/sqrt 6)/sqrt 6 for |z| < sqrt 6."""
    tail = torch.erfc(u.abs() / math.sqrt(2))  # the share of normal numbers beyond |u|
    return math.sqrt(6) * (1 - tail.sqrt()) * u.sign()


def logistic(u: Tensor) -> Tensor:
    """Return logistic numbers: log(F/(1 - F)) sqrt 3/pi, with F the distribution function of u."""
    return math.sqrt(3) / math.pi * (log_ndtr(u) - log_ndtr(-u))


DENSITIES: dict[_slopes.Name, tuple[Draw, float, bool]] = {
    "identity": (uniform, 1 / math.sqrt(3), False),
    "clipped": (uniform, 1 / math.sqrt(3), True),
    "steep": (uniform, 0.5 / math.sqrt(3), True),
    "poly": (triangular, 1 / math.sqrt(6), True),
    "tanh": (logistic, math.pi / math.sqrt(12), True),
    "sigmoid": (logistic, math.pi / math.sqrt(3), True),
}
"""Slope -> (its noise, the standard deviation in half steps, whether it matches a sign).

A slope matches a rounding if the noise stays within one half step: all but the logistic ones."""


def density(slope: _slopes.Name) -> tuple[Draw, float]:
    """Return the noise that matches a slope, and its standard deviation in half steps.

    Raises:
        ValueError: no noise matches the slope.

    """
    if slope not in DENSITIES:
        raise ValueError(
            f"noise=matched: no noise matches surrogate={slope}; take "
            f"{', '.join(DENSITIES)}, or set noise=uniform"
        )
    draw, std, _ = DENSITIES[slope]
    return draw, std


@torch.no_grad()
def half_steps(objective: Objective, params: Params, slope: _slopes.Name) -> Params:
    """Return half the distance between the thresholds of each quantized weight, by its name.

    A quantizer that rounds has equal distances. A sign has a single threshold; its half step is 1,
    half the height of the step. A half step has one element, or one for each output channel.

    Args:
        objective: the loss of a network.
        params: the point.
        slope: the slope that the noise must match.

    Raises:
        ValueError: the slope or the noise does not fit a quantizer.

    """
    found: Params = {}
    draw, _, signs = DENSITIES[slope]
    point = objective.forward.frozen | params
    for weight, name, layer in quantized_weights(objective.forward.network):
        if weight not in params:
            continue
        quantize: Any = layer.quantize
        kind = traits(quantize)
        scale = _scale(quantize, f"{name}.quantize.", point[weight], point) if kind.rounds else None
        if scale is not None and draw is not logistic:
            found[weight] = scale / 2
        elif kind.bits == 1 and not kind.rounds and signs:
            found[weight] = params[weight].new_ones(())
        else:
            raise ValueError(
                f"noise=matched: surrogate={slope} of {component(quantize)} at {weight} is the "
                "slope of no smoothing that is known here; take surrogate=clipped, steep or poly "
                "with quantizer/weight=sign or xnor, or with lsq, uniform or fixed_point and one "
                "scale for a tensor or a channel; or set noise=uniform"
            )
    return found


def _scale(quantize: Any, own: str, w: Tensor, point: Params) -> Tensor | None:
    """Return the scale of a quantizer that rounds; None if it has several along a channel.

    Args:
        quantize: the quantizer.
        own: what the names of its own parameters begin with.
        w: the weights.
        point: all parameters of the network.

    """
    values = {f"quantize.{k.removeprefix(own)}": p for k, p in point.items() if k.startswith(own)}
    (term,) = functional_call(_Coded(quantize), values, (w,))
    return term.scale


class _Coded(nn.Module):
    """A quantizer as a module that returns codes and scales."""

    def __init__(self, quantize: Any):
        super().__init__()
        self.quantize = quantize

    def forward(self, w: Tensor) -> codes.Terms:
        """Return w quantized, as terms."""
        return codes.of(self.quantize, w)
