"""What quantizers declare about themselves, and the base of those that keep numbers for a layer."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sa.network.structure import Step
from sa.types import Quantizer, WeightMoves


@dataclass(frozen=True)
class Traits:
    """What a quantizer q declares; the defaults are those of a plain function.

    A quantizer declares a trait by an attribute of that name: a class variable, a setting or a
    property. It need not inherit from anything.

    Args:
        identity: whether q(x) = x, so that what it quantizes stays in full precision.
        stochastic: whether q draws random numbers while an estimator samples.
        coupled: whether q of one row depends on the other rows of a batch.
        uncoupled_by: setting of the quantizer that makes rows independent, where they are not.
        needs_layer: whether q works only as a part of a layer, which keeps numbers for it.
        bits: bits of a quantized number; None if they are not declared.
        granularity: elements that share their levels: ``tensor``, ``channel``, ``sample`` or
            ``group:n``.
        step: q as thresholds and levels; None if it is no elementwise step function.
        moves: how q(w) moves with single weights; None if a weight moves the others' q(w).

    """

    identity: bool = False
    stochastic: bool = False
    coupled: bool = False
    uncoupled_by: str = "granularity=sample"
    needs_layer: bool = False
    bits: int | None = None
    granularity: str = "tensor"
    step: Step | None = None
    moves: WeightMoves | None = None


def traits(quantize: Quantizer | None) -> Traits:
    """Return what a quantizer, or the module that a layer has of one, declares.

    None, which keeps full precision, is the identity.
    """
    if quantize is None:
        return Traits(identity=True)
    own = component(quantize)
    # the one place that looks for them by name: a plain function declares none
    found: dict[str, Any] = {f.name: getattr(own, f.name, f.default) for f in fields(Traits)}
    return Traits(**found)


class LayerQuantizer(nn.Module):
    """A quantizer of one layer, with numbers of its own: a stored range, or parameters.

    Args:
        spec: the quantizer that it was built from.

    Attributes:
        observing: whether a forward may update the numbers from what it quantizes.

    """

    def __init__(self, spec: Any):
        super().__init__()
        self.spec, self.observing = spec, False

    @property
    def observes(self) -> bool:
        """Whether a forward while ``observing`` would update the numbers."""
        return False

    @property
    def asleep(self) -> bool:
        """Whether it is the identity for now, because all that it has seen are zeros."""
        return False

    @property
    def group(self) -> dict[str, float]:
        """Settings of the optimizer for its own parameters; others are as for the rest."""
        return {}

    def extra_repr(self) -> str:
        """Return the settings."""
        return repr(self.spec)


@runtime_checkable
class PerLayer(Protocol):
    """A quantizer that may keep numbers for every layer."""

    def build(self, like: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the quantizer of a layer; like: its weights, None for activations."""
        ...


@runtime_checkable
class Gating(Protocol):
    """A quantizer that switches channels off, by a parameter of every layer."""

    def keep(self, alpha: Tensor) -> Tensor:
        """Return the share of channels that a layer keeps on average, by its parameter."""
        ...

    def owed(self, keeps: Tensor) -> Tensor:
        """Return the penalty, 0-dim, of the shares (layers,) that all layers keep."""
        ...


def component(quantize: Quantizer) -> Any:
    """Return the quantizer that a layer's own was built from; any other one as it is."""
    return quantize.spec if isinstance(quantize, LayerQuantizer) else quantize


def for_layer(quantize: Quantizer, like: Tensor | None = None) -> Quantizer:
    """Return the quantizer of one layer; like: its weights, None for activations."""
    return quantize.build(like) if isinstance(quantize, PerLayer) else quantize
