"""Quantized numbers as whole numbers times a scale, and products that apply the scale last.

A sum of whole numbers is exact in floating point, in any order, below 2^53 (float64) or 2^24
(float32). If every summand is scaled first, the sum is rounded. A sum that should be 0 may then be
+-1e-17, by the order in which the machine adds, and rounding decides the sign step after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 8
"""The largest error, in units of rounding errors, of a number that counts as a whole number."""


class Term(NamedTuple):
    """A tensor codes * scale.

    Args:
        codes: whole numbers, of the shape of the quantized tensor. If the quantizer gives no codes,
            they are the quantized numbers themselves, and the scale is None.
        scale: one number, or one for each output channel, (out, 1, ...); None for 1.

    """

    codes: Tensor
    scale: Tensor | None = None


Terms = Sequence[Term]
"""A quantized tensor: the sum of its terms."""


@runtime_checkable
class Coder(Protocol):
    """A quantizer that can return its result as codes and scales."""

    def coded(self, x: Tensor) -> Terms:
        """Return terms whose sum is q(x). Gradients are those of q(x)."""
        ...


@runtime_checkable
class Stepped(Protocol):
    """A quantizer of activations whose results are whole multiples of one number."""

    def step_size(self) -> Tensor | float | None:
        """Return that number; None if there is none, or if no rounding occurs (a power of two)."""
        ...


def of(quantize: Callable[[Tensor], Tensor], x: Tensor) -> Terms:
    """Return q(x) as terms: one term without a scale if the quantizer is no `Coder`."""
    return quantize.coded(x) if isinstance(quantize, Coder) else (Term(quantize(x)),)


def decoded(terms: Terms) -> Tensor:
    """Return the quantized numbers: the sum of codes times scales."""
    first, *others = [t.codes if t.scale is None else t.codes * t.scale for t in terms]
    for other in others:
        first = first + other
    return first


def counts(x: Tensor, step_size: Tensor | float) -> Tensor:
    """Return x / step_size, rounded to a whole number where x is a multiple up to rounding errors.

    Other quotients, for example of relaxed states of random units, are not rounded. The step size
    is a constant: dL/dx = dL/dcounts / step_size.
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
    """The identity, for an activation slot without a quantizer."""

    identity: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


@dataclass(frozen=True)
class Rescaled:
    """The identity, for weights that start as codes times a scale.

    Products use weights / scale, and the scale comes after them.

    Args:
        scale: a constant, as in `Term`.

    """

    identity: ClassVar[bool] = True
    scale: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        """Return w."""
        return w

    def coded(self, w: Tensor) -> Terms:
        """Return w / scale and the scale: whole numbers if w is still codes times the scale."""
        return (Term(counts(w, self.scale), self.scale),)


def linear(
    x: Tensor, terms: Terms, bias: Tensor | None, step_size: Tensor | float | None = None
) -> Tensor:
    """Return x q(W)' + b: products of codes, then scales, then the bias.

    Args:
        x: (n, in).
        terms: q(W), (out, in).
        bias: (out,), or None.
        step_size: a number that all entries of x are multiples of; None if there is none.

    Returns:
        (n, out).

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
    """Return the convolution of x with q(W), plus b: products of codes, then scales, then b.

    Args:
        x: (n, c, h, w).
        terms: q(W), (o, c, k, k).
        bias: (o,), or None.
        stride: along height and width.
        padding: zeros on each side.
        step_size: a number that all entries of x are multiples of; None if there is none.

    Returns:
        (n, o, h', w').

    """

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
    """Return the sum of the scaled products of x with each term, plus the bias.

    Args:
        product: (x, codes) -> (n, out, ...), linear in both.
        x: the inputs.
        terms: the weights.
        bias: (out,), or None.
        step_size: a number that all entries of x are multiples of; None if there is none.
        places: how many dimensions a product has after the channels.

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
    """Return the scale of a product: the scale of the weights times the step size of the inputs.

    It is None if there is neither.
    """
    step = step_size.detach() if isinstance(step_size, Tensor) else step_size
    if scale is None or step is None:
        return step if scale is None else scale
    return (
        scale * step.reshape(-1, *[1] * (scale.dim() - 1))
        if isinstance(step, Tensor)
        else scale * step
    )


def along(scale: Tensor, places: int) -> Tensor:
    """Return a scale (one number or (channels,)) in a shape that multiplies (n, channels, ...)."""
    return scale.reshape(-1, *[1] * places)
