"""Quantized numbers as whole numbers times a scale, and products that apply the scale last.

A sum of whole numbers is exact in floating point, in any order, below 2^53 (float64) or 2^24
(float32). The same sum with a scale inside every summand is rounded, and then a sum that is 0 comes
out as +-1e-17 by the order in which the machine adds: a sign step behind it is decided by rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 8
"""By how many rounding errors a multiple of a step size may miss a whole number of steps."""


class Term(NamedTuple):
    """codes * scale.

    codes: whole numbers, of the shape of what is quantized. scale: of all (one number), or of each
    output channel, (out, 1, ...); None where it is 1, and where there are no codes: the codes are
    then the quantized numbers themselves.
    """

    codes: Tensor
    scale: Tensor | None = None


Terms = Sequence[Term]
"""A quantized tensor: the sum of its terms."""


@runtime_checkable
class Coder(Protocol):
    """A quantizer that tells its result as codes and scales."""

    def coded(self, x: Tensor) -> Terms:
        """Return q(x) as terms whose sum it is; gradients as those of q(x)."""
        ...


@runtime_checkable
class Stepped(Protocol):
    """A quantizer of activations whose results are whole multiples of one number."""

    def step_size(self) -> Tensor | float | None:
        """Return that number; None where there is none, or a power of two that needs no care."""
        ...


def of(quantize: Callable[[Tensor], Tensor], x: Tensor) -> Terms:
    """Return q(x) as terms; one without a scale where the quantizer tells no codes."""
    return quantize.coded(x) if isinstance(quantize, Coder) else (Term(quantize(x)),)


def decoded(terms: Terms) -> Tensor:
    """Return the quantized numbers: the sum of codes times scales."""
    first, *others = [t.codes if t.scale is None else t.codes * t.scale for t in terms]
    for other in others:
        first = first + other
    return first


def counts(x: Tensor, step_size: Tensor | float) -> Tensor:
    """Return x / step_size: whole numbers where x is a multiple of it, up to rounding.

    Anything else, as the relaxed states of random units, is divided and stays what it is. The step
    size is a constant: dL/dx is dL/dcounts / step_size.
    """
    step = step_size.detach() if isinstance(step_size, Tensor) else step_size
    ratio = x / step
    with torch.no_grad():
        whole = ratio.round()
        most = TOLERANCE * torch.finfo(x.dtype).eps
        apart = torch.where((ratio - whole).abs() <= most * whole.abs(), whole - ratio, 0.0)
    return ratio + apart


@dataclass(frozen=True)
class Same:
    """The identity, of a slot that no rule fills."""

    identity: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


@dataclass(frozen=True)
class Rescaled:
    """The identity, for weights that start as codes times a scale: products see weights / scale.

    The scale is a constant, as in `Term`.
    """

    identity: ClassVar[bool] = True
    scale: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        """Return w."""
        return w

    def coded(self, w: Tensor) -> Terms:
        """Return w / scale, whole numbers where w still is codes times the scale, and the scale."""
        return (Term(counts(w, self.scale), self.scale),)


def linear(
    x: Tensor, terms: Terms, bias: Tensor | None, step_size: Tensor | float | None = None
) -> Tensor:
    """Return x q(W)' + b, (n, in) -> (n, out): products of codes, then scales, then the bias.

    step_size: a number that all of x are multiples of; None where there is none.
    """
    return products(F.linear, x, terms, bias, step_size, 0)


def conv2d(
    x: Tensor,
    terms: Terms,
    bias: Tensor | None,
    stride: int,
    padding: int,
    step_size: Tensor | float | None = None,
) -> Tensor:
    """Return the convolution of x with q(W), (n, c, h, w) -> (n, o, h', w'), likewise."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, stride, padding)

    return products(product, x, terms, bias, step_size, 2)


def products(
    product: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    terms: Terms,
    bias: Tensor | None,
    step_size: Tensor | float | None,
    places: int,
) -> Tensor:
    """Return the sum of the terms' products, each scaled, and the bias.

    product: (x, codes) -> (n, out, ...), with ``places`` dimensions behind the channels; linear in
    both.
    """
    if step_size is not None:
        x = counts(x, step_size)
    total: Tensor | None = None
    for codes, scale in terms:
        z = product(x, codes)
        by = combined(scale, step_size)
        if by is not None:
            z = z * (along(by, places) if isinstance(by, Tensor) else by)
        total = z if total is None else total + z
    assert total is not None, "a quantized tensor has a term"
    return total if bias is None else total + along(bias, places)


def combined(scale: Tensor | None, step_size: Tensor | float | None) -> Tensor | float | None:
    """Return the scale of a product: that of the weights times the step size of the inputs."""
    step = step_size.detach() if isinstance(step_size, Tensor) else step_size
    if scale is None or step is None:
        return step if scale is None else scale
    return (
        scale * step.reshape(-1, *[1] * (scale.dim() - 1))
        if isinstance(step, Tensor)
        else scale * step
    )


def along(scale: Tensor, places: int) -> Tensor:
    """Return one number, or one for each channel, so that it multiplies (n, channels, ...)."""
    return scale.reshape(-1, *[1] * places)
