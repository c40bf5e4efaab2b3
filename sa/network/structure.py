"""What a network is made of, as data: affine maps, steps, cuts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sa.types import Params, Quantizer, WeightMoves


@dataclass(frozen=True)
class Step:
    """A piecewise constant function: ``levels[k]`` where thresholds[k-1] <= z < thresholds[k]."""

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

    padding: of a square convolution; None for a fully connected map. pool: the side of the average
    pooling after the map. norm: BatchNorm on running statistics before the step. average: whether
    maps (rows, c, h, w) enter averaged over positions; else they are flattened. stride: of the
    convolution; 1 in a chain. step_size: a number that all inputs are multiples of, where the
    weights are codes (`Cut.kernels`).
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
    """Where the units of a hidden layer are, by the names of tensors.

    rows: along their first axis. columns: along the second axis of the next layer's weights, each
    unit in a block of equally many.
    """

    rows: tuple[str, ...]
    columns: str


Apply = Callable[[Params, Tensor], Tensor]
"""A part of a network as a function of every parameter and buffer, by name, and of its input."""


@dataclass(frozen=True)
class Block:
    """y = body(enter(x)) + shortcut(x), where a step comes first in the body.

    So the body's output depends only on which ``thresholds`` enter(x) is at or above.
    """

    enter: Apply
    thresholds: tuple[float, ...]
    body: Apply
    shortcut: Apply


@dataclass(frozen=True)
class Cut:
    """A network that is no chain, cut open at one convolution.

    before: (params, inputs) -> what goes into the convolution, and what sums behind it take from
    before it. links: the convolution and, where nothing but a norm and a step stand between it and
    another one, that one. kernels: by name, what the links multiply by, and the scale that follows,
    (out, 1, 1, 1) or of one element, None without one. moves: of quantized weights, how they move
    with single ones; None: w itself moves. after: what follows the links, in turn; a number adds
    what ``before`` kept there. rest: (params, z, kept, rows) -> outputs, what follows the links in
    one call, instead of ``after``; rows says which rows z belongs to. share: of the network's
    operations, what the rest takes, in (0, 1].
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
    """The network as a chain of affine maps and steps, or ``obstacle``: why it is none.

    cuts: of a network that is no chain, and where only kernels move, one for each of them.
    frozen: the network's parameters that do not move. statistics: its running statistics.
    criterion: (outputs, targets) -> row losses; quadratic: whether it is the squared error averaged
    over outputs. stochastic: whether units are random in training (`sa.surrogate.bernoulli`); None
    where nobody knows. gradients: whether what is back-propagated is quantized. quantized: what is
    quantized, ``layer.slot``, and how. units: of every hidden layer, where they may change places
    without the function changing; else ``bound``: why they may not.
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
    obstacle: str | None = "the loss is a plain function"
    units: Sequence[Units] = ()
    bound: str | None = "the loss is a plain function"

    @property
    def hard(self) -> list[str]:
        """The quantized weights and activations: where there are any, the loss has no Hessian."""
        return [k for k in self.quantized if not k.endswith(".gradient")]

    @property
    def slow(self) -> str | None:
        """Why coordinate differences take two forwards a coordinate, or None if they do not."""
        return None if self.cuts else self.obstacle

    @property
    def plain(self) -> bool:
        """Whether every map is fully connected and followed by its step at once."""
        return bool(self.links) and all(x.padding is None and x.norm is None for x in self.links)


class Layer(NamedTuple):
    """What one layer did in one forward, in the order of the forward.

    name: of the layer, '' of a formula. inputs, outputs: (rows, ...). quantize: what its weights,
    or of an activation its inputs, go through; None in full precision. weight: its weights before
    that, (out, ...), and used, after it; None where it is no affine map. parameters: how many it
    has, quantizers' too.
    """

    name: str
    inputs: Tensor
    outputs: Tensor
    quantize: Quantizer | None
    weight: Tensor | None
    used: Tensor | None
    parameters: int
