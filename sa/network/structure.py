"""What a network is made of, as data: affine maps, steps, cuts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sa.types import Params, Quantizer, WeightMoves


@dataclass(frozen=True)
class Step:
    """A piecewise constant function: ``levels[k]`` if thresholds[k-1] <= z < thresholds[k]."""

    thresholds: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Norm:
    """A BatchNorm by its name in the network, and its eps."""

    name: str
    eps: float = 1e-5


@dataclass(frozen=True)
class Link:
    """One affine map of a chain, by its parameters' names, and the step after it, if any.

    Args:
        weight: name of its weights.
        bias: name of its bias; None without one.
        step: the step that follows; None if none does.
        padding: of a square convolution; None for a fully connected map.
        pool: side of the average pooling after the map.
        norm: BatchNorm on running statistics before the step.
        average: whether maps (rows, c, h, w) enter averaged over positions; else they are
            flattened.
        stride: of the convolution; 1 in a chain.
        step_size: a number that all inputs are multiples of, if the weights are codes
            (`Cut.kernels`).

    """

    weight: str
    bias: str | None = None
    step: Step | None = None
    padding: int | None = None
    pool: int = 1
    norm: Norm | None = None
    average: bool = False
    stride: int = 1
    step_size: float | None = None


class Units(NamedTuple):
    """The tensors that hold the units of a hidden layer, by name.

    rows: tensors that have a unit per row, along their first axis. columns: the next layer's
    weights, which have them along the second axis, each unit in a block of equally many columns.
    """

    rows: tuple[str, ...]
    columns: str


Apply = Callable[[Params, Tensor], Tensor]
"""A part of a network as a function of every parameter and buffer, by name, and of its input."""


@dataclass(frozen=True)
class Block:
    """y = body(enter(x)) + shortcut(x), with a step first in the body.

    So the body's output depends only on which ``thresholds`` enter(x) is at or above.
    """

    enter: Apply
    thresholds: tuple[float, ...]
    body: Apply
    shortcut: Apply


@dataclass(frozen=True)
class Cut:
    """A network that is no chain, cut open at one convolution.

    Args:
        links: the convolution. If only a norm and a step stand between it and another convolution,
            that one comes second.
        before: (params, inputs) -> the input of the convolution, and what sums behind it add from
            before it.
        kernels: params -> by name, the kernels that the links multiply by, and the scale that
            follows: (out, 1, 1, 1), one element, or None.
        moves: how quantized weights move with single ones; None if w itself moves.
        after: what follows the links, in order; a number i adds what ``before`` kept as i-th.
        rest: (params, z, kept, rows) -> outputs, what follows the links in one call, instead of
            ``after``; rows says which rows z belongs to. None where ``after`` says it.
        share: the rest's share of the network's operations, in (0, 1].

    """

    links: tuple[Link, ...]
    before: Callable[[Params, Tensor], tuple[Tensor, list[Tensor]]]
    kernels: Callable[[Params], dict[str, tuple[Tensor, Tensor | None]]]
    moves: WeightMoves | None
    after: tuple[Apply | Block | int, ...]
    rest: Callable[[Params, Tensor, list[Tensor], Tensor], Tensor] | None = None
    share: float = 1.0


def _no_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    raise TypeError("a plain function has no criterion")


@dataclass(frozen=True)
class Structure:
    """What estimators may need to know of a network and its loss.

    Args:
        links: the network as a chain of affine maps and steps; () if it is none.
        cuts: if it is no chain and only kernels move, the network cut open at each of them.
        frozen: the network's parameters that do not move.
        statistics: its running statistics.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        stochastic: whether units are random in training (`sa.surrogate.bernoulli`); None if
            nobody knows.
        gradients: whether back-propagated gradients are quantized.
        quantized: ``layer.slot`` -> its quantizer, of the slots that are not in full precision.
        why_not_a_chain: the reason, if it is no chain.
        units: hidden units that can be permuted without changing the function, per layer.
        why_not_permutable: the reason, if they cannot.

    """

    links: Sequence[Link] = ()
    cuts: Sequence[Cut] = ()
    frozen: Params = field(default_factory=dict)
    statistics: Params = field(default_factory=dict)
    criterion: Callable[[Tensor, Tensor], Tensor] = _no_criterion
    quadratic: bool = False
    stochastic: bool | None = None
    gradients: bool = False
    quantized: Mapping[str, str] = field(default_factory=dict)
    why_not_a_chain: str | None = "the loss is a plain function"
    units: Sequence[Units] = ()
    why_not_permutable: str | None = "the loss is a plain function"

    @property
    def hard(self) -> list[str]:
        """The quantized weights and activations; if there are any, the loss has no Hessian."""
        return [k for k in self.quantized if not k.endswith(".gradient")]

    @property
    def why_no_fast_path(self) -> str | None:
        """Why coordinate differences take two forwards a coordinate; None if they do not."""
        return None if self.cuts else self.why_not_a_chain

    @property
    def plain(self) -> bool:
        """Whether every map is fully connected and followed by its step at once."""
        return bool(self.links) and all(x.padding is None and x.norm is None for x in self.links)


class LayerTrace(NamedTuple):
    """What one layer did in one forward.

    Args:
        name: of the layer; '' of a formula.
        inputs: (rows, ...).
        outputs: (rows, ...).
        quantize: quantizer of its weights, or of an activation's inputs; None in full precision.
        weight: its weights (out, ...) before their quantizer; None if it is no affine map.
        used: its weights after their quantizer; None likewise.
        parameters: how many it has, its quantizer's included.

    """

    name: str
    inputs: Tensor
    outputs: Tensor
    quantize: Quantizer | None
    weight: Tensor | None
    used: Tensor | None
    parameters: int
