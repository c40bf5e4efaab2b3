"""Recognises the operations of a traced network: affine maps, norms, pooling, steps, ..."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from sa import surrogate
from sa.network import layers
from sa.network.codes import Rescaled
from sa.network.structure import Norm, Step
from sa.network.trace import Trace, attempt, named, step_of
from sa.network.traits import traits


@dataclass(frozen=True)
class Affine:
    """A fully connected map or a square convolution.

    Args:
        weight: name of its weights.
        bias: name of its bias; None without one.
        padding: of a convolution; None for a fully connected map.
        stride: of a convolution.

    """

    weight: str
    bias: str | None
    padding: int | None = None
    stride: int = 1


@dataclass(frozen=True)
class Pool:
    """Average pooling over squares that do not overlap, with this side."""

    side: int


@dataclass(frozen=True)
class Average:
    """The average of each map over its positions."""


@dataclass(frozen=True)
class Unchanged:
    """The identity, or only a change of shape."""


@dataclass(frozen=True)
class Clip:
    """The identity between ``low`` and ``high``, and constant outside."""

    low: float
    high: float


@dataclass(frozen=True)
class Other:
    """Any other operation, with the reason in words why it is none of these."""

    why: str


Operation = Affine | Norm | Pool | Average | Unchanged | Clip | Step | Other

_FLAT = ("view", "reshape", "flatten", "squeeze", "unsqueeze", torch.flatten, torch.reshape)
_SAME = ("contiguous", "clone", "detach", torch.clone)
_SMOOTH = (
    "relu relu6 gelu elu selu celu silu mish tanh sigmoid softplus softsign leaky_relu "
    "hardsigmoid hardswish logsigmoid tanhshrink softshrink hardshrink"
).split()


def operation(trace: Trace, node: fx.Node) -> Operation:
    """Return which operation a node of the trace is."""
    if node.op == "call_module":
        return _layer(trace, node)
    if node.target in (F.linear, torch.conv2d):
        return _functional(trace, node)
    return _function(trace, node)


def label(trace: Trace, node: fx.Node) -> str:
    """Return the words that name a node in a message."""
    if node.op == "call_module":
        return f"layer '{named(node)}' ({type(trace.module(node)).__name__})"
    if node.op in ("placeholder", "get_attr"):
        return "the input" if node.op == "placeholder" else f"'{named(node)}'"
    return f"the operation '{_function_name(node)}'"


def neither(trace: Trace, node: fx.Node) -> Other:
    """Return the reason why this operation, at its place in the network, makes it no chain."""
    return Other(
        f"{label(trace, node)} is neither an affine map nor the pooling, norm or step after one"
    )


def argument(node: fx.Node, at: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, given by position ``at`` or by name; else the default."""
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def shape(trace: Trace, node: Any) -> tuple[int, ...]:
    """Return the shape of a node's value on the example rows; () if it is no tensor."""
    value = trace.values.get(node)
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def before(trace: Trace, node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's first input."""
    return shape(trace, node.args[0]) if node.args else ()


def _function_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    target: Any = node.target
    return target if isinstance(target, str) else target.__name__


def _layer(trace: Trace, node: fx.Node) -> Operation:
    """Return which operation the call of a layer is."""
    m, name, what = trace.module(node), named(node), label(trace, node)
    at = f"{name}." if name else ""
    if parametrize.is_parametrized(m):
        return Other(f"the weights of {what} are parametrized or quantized")
    if (step := step_of(m)) is not None:  # tests check our own quantizers; check others here
        return step if isinstance(m, layers.Activation) else _checked(trace, node, step)
    bias = f"{at}bias" if f"{at}bias" in trace.params else None
    match m:
        case layers.Linear() | layers.Conv():
            whole = traits(m.quantize).identity
            if not whole or isinstance(m.quantize, Rescaled):
                return Other(f"the weights of layer '{name}' are quantized")
            if isinstance(m, layers.Linear):
                return Affine(f"{at}weight", bias)
            return Affine(f"{at}weight", bias, m.padding, m.stride)
        case nn.Linear():
            return Affine(f"{at}weight", bias)
        case nn.Conv2d():
            if m.padding_mode != "zeros":
                return Other(f"{what} pads with '{m.padding_mode}', not with zeros")
            settings = (m.stride, m.padding, m.dilation, m.groups)
            return _conv(what, f"{at}weight", bias, m.weight, *settings)
        case _BatchNorm():
            return _norm(trace, node, m, name)
        case nn.AvgPool2d():
            plain = not m.ceil_mode and m.divisor_override is None
            side = _one((m.kernel_size, m.stride))
            return Pool(side) if plain and side and _one((m.padding,)) == 0 else Other(
                f"{what} is not the average over squares that do not overlap"
            )  # fmt: skip
        case nn.AdaptiveAvgPool2d() if _one((m.output_size,)) == 1:
            return Average()
        case nn.Flatten():
            return _flat(trace, node)
        case nn.Identity():
            return Unchanged()
        case _DropoutNd() if not m.training:
            return Unchanged()
        case nn.Hardtanh() | nn.ReLU6():
            return Clip(float(m.min_val), float(m.max_val))
        case _ if type(m).__module__ == "torch.nn.modules.activation" and not list(m.parameters()):
            return Other(f"{what} is not a step")
    return neither(trace, node)


def _norm(trace: Trace, node: fx.Node, m: _BatchNorm, name: str) -> Operation:
    """Return a BatchNorm as a norm, or why it is none that a chain can have."""
    what = f"layer '{name}' (BatchNorm)"
    if not m.affine:
        return Other(f"{what} has no weight and bias")
    if len(before(trace, node)) not in (2, 4):
        return Other(f"{what} takes inputs of {len(before(trace, node))} dimensions")
    return Norm(name, m.eps)


def _functional(trace: Trace, node: fx.Node) -> Operation:
    """Return a call of F.linear or F.conv2d as an affine map, or why it is none."""
    what, names = label(trace, node), []
    for at, key in enumerate(("weight", "bias"), 1):
        given = argument(node, at, key)
        own = isinstance(given, fx.Node) and given.op == "get_attr" and trace.own(given)
        if given is not None and not own:
            return Other(f"the {key} of {what} is no parameter, but computed")
        names.append(named(given) if given is not None else None)
    weight, bias = names
    if node.target is F.linear:
        return Affine(str(weight), bias)
    values = [
        argument(node, at, key, default)
        for at, (key, default) in enumerate(
            (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)), 3
        )
    ]
    return _conv(what, str(weight), bias, trace.values[argument(node, 1, "weight")], *values)


def _conv(
    what: str,
    weight: str,
    bias: str | None,
    kernel: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Operation:
    """Return a convolution as an affine map, or the setting because of which it is none.

    Args:
        what: words that name the convolution.
        weight: name of its kernel.
        bias: name of its bias, or None.
        kernel: its kernel.
        stride: as torch takes it.
        padding: as torch takes it.
        dilation: as torch takes it.
        groups: as torch takes it.

    """
    if groups != 1:
        return Other(f"{what} has groups={groups}")
    if _one((dilation,)) != 1:
        return Other(f"{what} has dilation={dilation}")
    if kernel.shape[2] != kernel.shape[3]:
        return Other(f"{what} has a kernel that is not square")
    if padding in ("same", "valid"):
        side = kernel.shape[2]
        padding = 0 if padding == "valid" else (side // 2 if side % 2 else None)
    pads, by = _one((padding,)), _one((stride,))
    if pads is None or by is None:
        return Other(f"{what} has another stride or padding along height than along width")
    return Affine(weight, bias, pads, by)


def _function(trace: Trace, node: fx.Node) -> Operation:
    """Return which operation the call of a function or a method is."""
    target, what = node.target, label(trace, node)
    if target is surrogate.sign:
        return Step((0.0,), (-1.0, 1.0))
    if target is surrogate.step:
        return _stepped(trace, node)
    if target in (torch.sign, "sign"):
        return Other("torch.sign is 0 at 0 and back-propagates nothing: write sa.sign")
    if target in _FLAT:
        return _flat(trace, node)
    if target in _SAME or (target is F.dropout and argument(node, 2, "training", True) is False):
        return Unchanged()
    if target is F.hardtanh:
        return Clip(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
    if target is F.avg_pool2d:
        side = _one((argument(node, 1, "kernel_size"), argument(node, 2, "stride")))
        plain = len(node.args) < 4 and not node.kwargs.keys() - {"input", "kernel_size", "stride"}
        if side and plain:
            return Pool(side)
    if target is F.adaptive_avg_pool2d and _one((argument(node, 1, "output_size"),)) == 1:
        return Average()
    if target in (torch.mean, "mean") and len(before(trace, node)) == 4:
        dims = argument(node, 1, "dim")
        if isinstance(dims, tuple | list) and {d % 4 for d in dims} == {2, 3}:
            return Average()
    if _function_name(node).rstrip("_") in _SMOOTH:
        return Other(f"{what} is not a step")
    return neither(trace, node)


def _flat(trace: Trace, node: fx.Node) -> Operation:
    """Return whether a change of shape leaves rows as they are or makes each a vector.

    A row of one number for each channel, (c, 1, 1), may keep its shape.
    """
    old, new = before(trace, node), shape(trace, node)
    flat = len(new) == 2 and new[0] == old[0] == trace.rows
    return Unchanged() if flat or old == new else neither(trace, node)


def _stepped(trace: Trace, node: fx.Node) -> Operation:
    """Return a call of `sa.step` as a step, if its function is a sign or declares its step."""
    act: Any = argument(node, 1, "fn")
    if act is surrogate.hard_sign:
        return Step((0.0,), (-1.0, 1.0))
    step = getattr(act, "step", None)  # a user's own function has no class to inherit from
    if isinstance(step, Step):
        return _checked(trace, node, step)
    return Other(
        "sa.step is given a function whose thresholds and levels are not known: give the function "
        "an attribute step=Step(thresholds, levels)"
    )


def _checked(trace: Trace, node: fx.Node, step: Step) -> Operation:
    """Return the step that a node declares, or why it is another function.

    The node is run at its thresholds, just below them, between them and outside of them.
    """
    like = trace.values[node.args[0]]  # type: ignore[index]
    edge = like.new_tensor(step.thresholds)
    away = 1 + edge.abs().amax()
    below = torch.nextafter(edge, edge - 1)
    for x in (*edge, *below, *(edge[1:] + edge[:-1]) / 2, -away, away):
        values = dict(trace.values)
        values[node.args[0]] = x.expand_as(like).clone()  # type: ignore[index]
        run = partial(trace.run, [node], values, trace.params)
        attempt(f"{label(trace, node)} fails at {float(x):g}", run)
        level = step.levels[int((x >= edge).sum())]
        if not torch.allclose(values[node], like.new_tensor(level), rtol=1e-12, atol=1e-12):
            got = float(values[node].flatten()[0])
            return Other(
                f"{label(trace, node)} is not the step that it says it is: at {float(x):g} it "
                f"gives {got:g}, its step {level:g}"
            )
    return step


def _one(values: tuple[Any, ...]) -> int | None:
    """Return the one whole number that all settings have, in height and width; None otherwise."""
    numbers = {n for v in values for n in (v if isinstance(v, tuple | list) else (v,))}
    numbers.discard(None)
    first = next(iter(numbers), None)
    return first if len(numbers) == 1 and isinstance(first, int) else None
