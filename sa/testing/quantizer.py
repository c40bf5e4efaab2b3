"""The laws of quantizers, on random weights of a dense layer and of a convolution."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sa import surrogate
from sa.network.traits import for_layer, traits
from sa.testing.broken import Broken, without_global_draws
from sa.types import Quantizer


def _inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((4, 9), (3, 2, 3, 3))
    return [torch.randn(s, generator=draw, dtype=torch.float64).to(dtype) for s in shapes]


def _built(q: Quantizer, x: Tensor) -> Quantizer:
    """Return the quantizer as a layer uses it, with ranges that start from x."""
    try:
        own = for_layer(q, x)
    except ValueError:  # it is for activations only
        own = for_layer(q)
    if isinstance(own, nn.Module):
        own.to(x.dtype)
    if isinstance(own, nn.Module) and "observing" in vars(own):
        own.observing = True  # type: ignore[assignment]
        with torch.no_grad():
            own(x)
        own.observing = False  # type: ignore[assignment]
    return own


def _shapes(q: Quantizer) -> None:
    for dtype in (torch.float64, torch.float32):
        for x in _inputs(dtype):
            out = _built(q, x)(x)
            if out.shape != x.shape or out.dtype != dtype:
                raise Broken(
                    f"an input {tuple(x.shape)} of {dtype} becomes {tuple(out.shape)} of "
                    f"{out.dtype}; both stay as they are"
                )


def _repeats(q: Quantizer) -> None:
    for x in _inputs():
        own, before = _built(q, x), x.clone()
        one, two = without_global_draws(lambda own=own, x=x: (own(x), own(x)), "sa.surrogate")  # type: ignore[misc]
        if not torch.equal(one, two):
            raise Broken("two calls with one input differ; draw through sa.surrogate.bernoulli")
        if not torch.equal(x, before):
            raise Broken("it changes its input in place; copy it first")


def _rules(q: Quantizer) -> None:
    for x in _inputs():
        own = _built(q, x)
        leaf = x.clone().requires_grad_()
        with surrogate.backward(torch.ones_like):
            out = own(leaf)
            (grad,) = torch.autograd.grad(out.sum(), leaf)
        if not torch.equal(out.detach(), own(x).detach()):
            raise Broken("its output depends on the backward rule; compute it with sa.step")
        if not grad.isfinite().all():
            raise Broken("under a straight-through rule its gradient is not finite")
        if not grad.any():
            raise Broken(
                "under a straight-through rule its gradient is 0 everywhere; compute the step with "
                "sa.sign or sa.step"
            )


def _finite(q: Quantizer) -> None:
    for x in (torch.zeros(3, 4, dtype=torch.float64), *_inputs()):
        if not _built(q, x)(x).isfinite().all():
            what = "of zeros" if not x.any() else "of normal numbers"
            raise Broken(f"the output {what} is not finite")


def _levels(q: Quantizer) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 64, generator=draw, dtype=torch.float64)
    out, own = _built(q, x)(x).detach(), traits(q)
    if own.identity:
        if not torch.equal(out, x):
            raise Broken("it declares identity = True and changes its input")
        return
    many = len(out.unique())
    if own.bits and own.granularity == "tensor" and many > 2**own.bits:
        raise Broken(f"it declares {own.bits} bits and has {many} levels")
    if many > x.numel() // 2:
        raise Broken(
            f"{x.numel()} numbers keep {many} different values; one that changes nothing declares "
            "identity = True"
        )


def _step(q: Quantizer) -> None:
    step = traits(q).step
    if step is None:
        return
    x = torch.cat([torch.tensor(step.thresholds, dtype=torch.float64), _inputs()[0].flatten()])
    at = torch.bucketize(x, torch.tensor(step.thresholds, dtype=torch.float64), right=True)
    law = torch.tensor(step.levels, dtype=torch.float64)[at]
    if not torch.equal(law, _built(q, x)(x).detach()):
        raise Broken("it declares a step of other thresholds or levels than it computes")


def _stacks(q: Quantizer) -> None:
    for x in _inputs():
        own = _built(q, x)
        many = torch.vmap(own)(torch.stack([x, 2 * x]))
        if not torch.allclose(many, torch.stack([own(x), own(2 * x)])):
            raise Broken("under torch.vmap it gives other numbers than for one input at a time")


LAWS: dict[str, Callable[[Quantizer], None]] = {
    "shapes": _shapes,
    "repeats": _repeats,
    "rules": _rules,
    "finite": _finite,
    "levels": _levels,
    "step": _step,
    "stacks": _stacks,
}
