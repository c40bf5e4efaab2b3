"""The traits that quantizers declare, and the base class of those that store numbers of a layer."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sa.network.structure import Step
from sa.types import Quantizer, WeightMoves


@dataclass(frozen=True)
class Traits:
    """The traits that a quantizer q may declare; the defaults are those of a plain function.

    A quantizer declares a trait by an attribute of that name: a class variable, a setting or a
    property. It does not have to inherit from a class.

    Args:
        identity: whether q(x) = x, so that its slot stays in full precision.
        stochastic: whether q draws random numbers while an estimator samples.
        coupled: whether q of one row depends on the other rows of a batch.
        uncoupled_by: the setting that makes rows independent, if q couples them.
        needs_layer: whether q works only as a part of a layer, for which it stores numbers.
        bits: bits of a quantized number; None if they are not known.
        granularity: the elements that share their levels: ``tensor``, ``channel``, ``sample`` or
            ``group:n``.
        rounds: whether q(x) = s round(x/s) inside a range, s the scale of its one term.
        step: q as thresholds and levels; None if it is no elementwise step function.
        moves: how q(w) changes as one weight moves; None if one weight changes q of the others in
            another way than by a scale.

    """

    identity: bool = False
    stochastic: bool = False
    coupled: bool = False
    uncoupled_by: str = "granularity=sample"
    needs_layer: bool = False
    bits: int | None = None
    granularity: str = "tensor"
    rounds: bool = False
    step: Step | None = None
    moves: WeightMoves | None = None


def traits(quantize: Quantizer | None) -> Traits:
    """Return the traits of a quantizer, or of the module that it built for a layer.

    None, which stands for full precision, is the identity.
    """
    if quantize is None:
        return Traits(identity=True)
    own = component(quantize)
    # the only place that looks traits up by name, because a plain function declares none
    found: dict[str, Any] = {f.name: getattr(own, f.name, f.default) for f in fields(Traits)}
    return Traits(**found)


class LayerQuantizer(nn.Module):
    """A quantizer of one layer that stores numbers: a range, or parameters.

    Args:
        spec: the quantizer that it was built from.

    Attributes:
        observing: whether a forward may update the numbers from the tensor that it quantizes.

    """

    def __init__(self, spec: Any):
        super().__init__()
        self.spec, self.observing = spec, False

    @property
    def observes(self) -> bool:
        """Return whether a forward updates the numbers while ``observing`` is true."""
        return False

    @property
    def asleep(self) -> bool:
        """Return whether it is the identity for now, because it has seen only zeros so far."""
        return False

    @property
    def group(self) -> dict[str, float]:
        """Return optimizer settings for its own parameters, where they differ from the others'."""
        return {}

    def extra_repr(self) -> str:
        """Return the settings of the quantizer as text."""
        return repr(self.spec)


@runtime_checkable
class PerLayer(Protocol):
    """A quantizer that may store numbers for each layer."""

    def build(self, like: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the quantizer of one layer, from its weights, or None for activations."""
        ...


@runtime_checkable
class Gating(Protocol):
    """A quantizer that switches channels off, by one parameter in each layer."""

    def keep(self, alpha: Tensor) -> Tensor:
        """Return the mean share of channels that a layer keeps, from its parameter alpha."""
        ...

    def owed(self, keeps: Tensor) -> Tensor:
        """Return the penalty, 0-dim, from the shares (layers,) that the layers keep."""
        ...


def component(quantize: Quantizer) -> Any:
    """Return the quantizer that a layer's quantizer was built from; other quantizers as given."""
    return quantize.spec if isinstance(quantize, LayerQuantizer) else quantize


def for_layer(quantize: Quantizer, like: Tensor | None = None) -> Quantizer:
    """Return the quantizer of one layer, from its weights ``like``, or None for activations."""
    return quantize.build(like) if isinstance(quantize, PerLayer) else quantize
