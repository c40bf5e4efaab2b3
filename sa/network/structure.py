"""The structure of a network as data: affine maps, norms, steps, cuts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sa.types import Params, Quantizer, WeightMoves


@dataclass(frozen=True)
class Step:
    """A piecewise constant function: ``levels[k]`` if thresholds[k-1] <= z < thresholds[k].


    >>> Step(thresholds=(0.0,), levels=(-1.0, 1.0))  # a sign
    Step(thresholds=(0.0,), levels=(-1.0, 1.0))

    Args:
        thresholds: ascending.
        levels: one more than thresholds.

    """

    thresholds: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Norm:
    """A BatchNorm that uses its running statistics.

    Args:
        name: its name in the network.
        eps: is added to the running variance.

    """

    name: str
    eps: float = 1e-5


@dataclass(frozen=True)
class Link:
    """One affine map of a chain, with the pooling, norm and step after it.

    Args:
        weight: name of its weights.
        bias: name of its bias; None without one.
        step: the step that follows; None if none does.
        padding: of a square convolution; None for a fully connected map.
        pool: side of the average pooling after the map.
        norm: BatchNorm on running statistics before the step.
        average: whether input maps (rows, c, h, w) are averaged over positions; else they are
            flattened.
        stride: of the convolution; 1 in a chain.
        step_size: a number that all inputs are multiples of, if the weights are codes
            (`Cut.kernels`); else None.

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
    """The names of the tensors that hold the units of a hidden layer.

    Args:
        rows: tensors with one unit for each row, along their first axis.
        columns: weights of the next layer. Their second axis has equally many columns for each
            unit, side by side.

    """

    rows: tuple[str, ...]
    columns: str


Apply = Callable[[Params, Tensor], Tensor]
"""A part of a network: (every parameter and buffer by name, input) -> output."""


@dataclass(frozen=True)
class Block:
    """A sum y = body(enter(x)) + shortcut(x), with a step first in the body.

    So the output of the body depends only on which thresholds enter(x) is at or above.

    Args:
        enter: the layers of the branch before its step.
        thresholds: of the step.
        body: the other layers of the branch.
        shortcut: the other branch.

    """

    enter: Apply
    thresholds: tuple[float, ...]
    body: Apply
    shortcut: Apply


@dataclass(frozen=True)
class Cut:
    """A network that is no chain, cut open at one convolution.

    Args:
        links: the convolution. If a step and another convolution follow it, after a norm or none,
            that convolution is a second link.
        before: (params, inputs) -> the input of the convolution, and stored tensors that the rest
            of the network needs.
        kernels: params -> name of a link's weights -> (the kernel to multiply by, its scale). The
            scale is (out, 1, 1, 1), one element, or None.
        moves: how a quantized weight changes as a weight moves; None if weights are not quantized.
        after: the rest of the network, in order. A number i adds stored tensor i.
        rest: (params, z, stored tensors, rows) -> outputs: the rest as one function, instead of
            ``after``. rows says which row each z belongs to. None if ``after`` is the rest.
        share: operations of the rest, divided by those of the network, in (0, 1].

    """

    links: tuple[Link, ...]
    before: Callable[[Params, Tensor], tuple[Tensor, list[Tensor]]]
    kernels: Callable[[Params], dict[str, tuple[Tensor, Tensor | None]]]
    moves: WeightMoves | None
    after: tuple[Apply | Block | int, ...]
    rest: Callable[[Params, Tensor, list[Tensor], Tensor], Tensor] | None = None
    share: float = 1.0


def _no_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Raise TypeError: the criterion of a loss that is a plain function."""
    raise TypeError("a plain function has no criterion")


@dataclass(frozen=True)
class Structure:
    """The structure of a network and its loss, which estimators and analyses use.

    Args:
        links: the network as a chain of affine maps and steps; () if it is none.
        cuts: if it is no chain, the network cut open at each moving parameter that can be cut.
        frozen: parameters of the network that do not move, by name.
        statistics: its running statistics, by name.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        stochastic: whether units are random in training (`sa.surrogate.bernoulli`); None if it is
            not known.
        gradients: whether back-propagated gradients are quantized.
        quantized: ``layer.slot`` -> its quantizer in words, without slots in full precision.
        why_not_a_chain: why the network is no chain; None if it is one.
        units: hidden units that can be permuted without changing the function, for each layer.
        why_not_permutable: why units cannot be permuted; None if they can.

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
        """Return the quantized weights and activations. If there are any, there is no Hessian."""
        return [k for k in self.quantized if not k.endswith(".gradient")]

    @property
    def why_no_fast_path(self) -> str | None:
        """Return why every coordinate difference takes two forwards; None if there is a fast path.

        The reason is in words.
        """
        return None if self.cuts else self.why_not_a_chain

    @property
    def plain(self) -> bool:
        """Return whether every map is fully connected and its step, if any, follows directly."""
        return bool(self.links) and all(x.padding is None and x.norm is None for x in self.links)


class LayerTrace(NamedTuple):
    """The inputs, outputs and weights of one layer in one forward.

    Args:
        name: name of the layer; '' for a formula.
        inputs: (rows, ...).
        outputs: (rows, ...).
        quantize: quantizer of its weights, or of its inputs if it is an activation; None for full
            precision.
        weight: its weights (out, ...) before the quantizer; None if it is no affine map.
        used: its weights after the quantizer; None if it is no affine map.
        parameters: number of its parameters, with those of its quantizer.

    """

    name: str
    inputs: Tensor
    outputs: Tensor
    quantize: Quantizer | None
    weight: Tensor | None
    used: Tensor | None
    parameters: int
