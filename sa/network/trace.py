"""Records any network as a graph of operations, with torch.fx, and runs parts of the graph."""

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from sa.network import patch
from sa.network.layers import Activation, Conv, Linear
from sa.network.structure import Step
from sa.network.traits import LayerQuantizer
from sa.types import Params

Result = TypeVar("Result")
Env = dict[fx.Node, Any]
"""Node of a graph -> its value in one run."""

_PREFIX = "network."
_SIZES = ("size", "dim", "numel", "ndimension")
_NUMBERS = (
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.neg,
)  # fmt: skip


class Unreadable(ValueError):
    """A network cannot be read as layers and steps. The message says why, in plain words.

    `sa.Loss.differences` raises it if the fast path is demanded, and ``profiles`` always needs it.

    >>> import sa, torch
    >>> from torch import nn
    >>> class Waves(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.phase = nn.Parameter(torch.zeros(2))
    ...     def forward(self, x):
    ...         return torch.sin(x + self.phase)
    >>> loss = sa.loss(Waves(), (torch.zeros(4, 2), torch.zeros(4, 2)))
    >>> try:
    ...     loss.differences(epsilons=[0.1], path="fast")
    ... except sa.Unreadable as error:
    ...     print(str(error).partition(",")[0])
    there is no fast path: the operation 'add' is neither an affine map nor the pooling
    """


@dataclass(eq=False)
class Trace:
    """The operations of a network in the order of its forward, with their values on some rows.

    Args:
        root: a module that has the network, and the constants that the forward made.
        nodes: the operations, without the input and the output.
        source: the node of the input.
        result: the node whose value the network returns.
        params: every parameter and buffer of the network at a point, by name.
        rows: number of example rows.
        values: the value of each node on the example rows.
        in_place: the operations that overwrite an input. They run on copies.

    """

    root: nn.Module
    nodes: list[fx.Node]
    source: fx.Node
    result: fx.Node
    params: Params
    rows: int
    values: Env = field(default_factory=dict)
    in_place: set[fx.Node] = field(default_factory=set)

    def run(self, nodes: Iterable[fx.Node], values: Env, params: Params) -> None:
        """Run some nodes and add their values to ``values``.

        Args:
            nodes: the nodes, in order.
            values: the values of all nodes that they need.
            params: every parameter and buffer of the network, by name.

        """
        for node in nodes:
            given = _copied(values) if node in self.in_place else values.__getitem__
            args, kwargs = fx.node.map_arg(node.args, given), fx.node.map_arg(node.kwargs, given)
            values[node] = self._result(node, args, kwargs, params)

    def _result(self, node: fx.Node, args: Any, kwargs: Any, params: Params) -> Any:
        """Return the value of a node with these arguments."""
        target: Any = node.target
        if node.op == "call_module":
            own = {k: params[v] for k, v in self.own(node).items()}
            return functional_call(self.module(node), own, args, kwargs)
        if node.op == "get_attr":
            name = named(node)
            return params[name] if name in params else operator.attrgetter(target)(self.root)
        if node.op == "call_method":
            return operator.methodcaller(target, *args[1:], **kwargs)(args[0])
        return target(*args, **kwargs)

    def module(self, node: fx.Node) -> nn.Module:
        """Return the layer that a node calls."""
        return self.root.get_submodule(str(node.target))

    def own(self, node: fx.Node) -> dict[str, str]:
        """Return the parameters and buffers that a node uses: name in its layer -> full name."""
        if node.op == "get_attr":
            return {named(node): named(node)} if named(node) in self.params else {}
        if node.op != "call_module":
            return {}
        m, at = self.module(node), f"{named(node)}." if named(node) else ""
        local = [k for k, _ in (*m.named_parameters(), *m.named_buffers())]
        return {k: at + k for k in local if at + k in self.params}

    def uses(self, name: str) -> int:
        """Return how many times the forward uses a parameter."""
        count = 0
        for node in self.nodes:
            if name in self.own(node).values():
                count += 1 if node.op == "call_module" else len(self.users(node))
        return count

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that use a node's value, without those that read only its shape."""
        return [user for user in node.users if not self.is_size(user)]

    def is_size(self, node: fx.Node) -> bool:
        """Return whether a node's value is a size of its input, or a number computed from sizes."""
        if node not in self.values or isinstance(self.values[node], Tensor):
            return False
        if node.op == "call_method":
            return node.target in _SIZES
        if node.target is getattr:  # of a traced value: x.shape
            return node.args[1] in ("shape", "ndim", "dtype", "device")
        return node.target in _NUMBERS and all(map(self.is_size, node.all_input_nodes))


def named(node: fx.Node) -> str:
    """Return the name, in the network, of a node's layer or tensor."""
    return str(node.target)[len(_PREFIX) :]


def trace(network: nn.Module, rows: Tensor, params: Params) -> Trace:
    """Return the operations of a network, with their values on example rows.

    Args:
        network: in evaluation mode.
        rows: a few inputs, (rows, ...), of the dtype of the network.
        params: every parameter and buffer, by name.

    Raises:
        Unreadable: the forward cannot be traced, or does not return one tensor.

    """
    root, tracer = _Root(network), _Tracer()
    graph = attempt("it cannot be traced", lambda: tracer.trace(root))
    first, *nodes, last = graph.nodes
    result = last.args[0]
    if not isinstance(result, fx.Node):
        raise Unreadable(f"the network returns a {type(result).__name__}, not one tensor")
    found = Trace(root, nodes, first, result, params, len(rows), {first: rows.clone()})
    attempt("its trace fails", lambda: _record(found))
    values = found.values
    if not isinstance(values[result], Tensor):
        what = type(values[result]).__name__
        raise Unreadable(f"the network returns a {what}, not one tensor")
    return found


def _record(trace: Trace) -> None:
    """Run a trace on the example rows, and set its ``values`` and ``in_place``.

    Raises:
        Unreadable: an operation overwrites a tensor that a later one uses, so it cannot run on a
            copy.

    """
    values, params = trace.values, {k: v.clone() for k, v in trace.params.items()}
    own = {v.untyped_storage().data_ptr() for v in params.values() if v.numel()}
    for i, node in enumerate(trace.nodes):
        inputs = [v for n in node.all_input_nodes if isinstance(v := values[n], Tensor)]
        versions = [v._version for v in inputs]
        trace.run([node], values, params)
        for x, version in zip(inputs, versions, strict=True):
            if x._version == version:
                continue
            trace.in_place.add(node)
            place = x.untyped_storage().data_ptr()
            later = set(trace.nodes[i + 1 :])
            seen = [n for n in (trace.source, *trace.nodes[:i]) if _storage(values[n]) == place]
            if place in own or any(u in later for n in seen for u in trace.users(n)):
                raise Unreadable(
                    f"the operation {node.name.strip('_')!r} changes in place what is used again"
                )


def _storage(value: object) -> int | None:
    """Return the address of a tensor's memory; None for other values."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _copied(values: Env) -> Callable[[fx.Node], Any]:
    """Return a function that looks a node's value up and copies it if it is a tensor."""

    def given(node: fx.Node) -> Any:
        value = values[node]
        return value.clone() if isinstance(value, Tensor) else value

    return given


def check(network: nn.Module) -> None:
    """Raise Unreadable if a network does something that a trace would not record."""
    for name, m in network.named_modules():
        _refuse_layer(name, m)
    _refuse_ties(network)
    _refuse_inputs(network)


def attempt(what: str, code: Callable[[], Result]) -> Result:
    """Return the result of a user's code.

    Args:
        what: words that the message begins with, if the code fails.
        code: the code.

    Raises:
        Unreadable: the code raises any exception.

    """
    try:
        return code()
    except Unreadable:
        raise
    except Exception as error:  # a user's code may raise any exception
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, fx.proxy.TraceError):
            reason = "the forward branches or loops on values or sizes of tensors"
        if "item assignment" in reason:
            reason = "the forward assigns to a part of a tensor; write torch.where or torch.cat"
        if reason.startswith("'len'"):
            reason = "the forward calls len() of a tensor; write x.size(0) instead"
        raise Unreadable(f"{what}: {reason or type(error).__name__}") from error


class _Root(nn.Module):
    """A module around the network, so that hooks around the network's forward are recorded too."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Tracer(fx.Tracer):
    """A tracer that records layers of torch, layers of sa and steps as one operation each."""

    proxy_buffer_attributes = True

    def create_arg(self, a: Any) -> Any:
        """Return an argument in the form that the graph stores; a function stays a function."""
        plain = callable(a) and not isinstance(a, fx.Proxy | nn.Module | torch.Tensor | type)
        return a if plain else super().create_arg(a)

    def __init__(self) -> None:
        super().__init__(param_shapes_constant=True)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a layer is one operation; the forward of other layers is traced."""
        if step_of(m) is not None or isinstance(m, Linear | Conv):
            return True
        if parametrize.is_parametrized(m):  # `sa.network.quantize` patches the forward of these
            return super().is_leaf_module(m, module_qualified_name)
        changed = "forward" in vars(m) or bool(m._forward_hooks)
        return not changed and super().is_leaf_module(m, module_qualified_name)


def step_of(m: nn.Module) -> Step | None:
    """Return the step that an `Activation`, or any layer with ``step``, declares; else None."""
    source: object = m.quantize if isinstance(m, Activation) else m
    step = getattr(source, "step", None)  # a user's own layer has no class to inherit from
    return step if isinstance(step, Step) else None


def _refuse_layer(name: str, m: nn.Module) -> None:
    """Raise Unreadable for hooks, quantizers that store numbers, and norms without statistics."""
    where = f"layer '{name}' ({type(m).__name__})" if name else "the network"
    foreign = [h for h in m._forward_hooks.values() if h is not patch.quantized_output]
    if foreign or m._forward_pre_hooks:
        kind = "forward hook" if foreign else "forward pre-hook"
        raise Unreadable(f"{where} has a {kind}, and what a hook does cannot be read; remove it")
    if isinstance(m, LayerQuantizer):
        raise Unreadable(f"the quantizer '{name}' keeps a range or levels from data")
    if isinstance(m, _BatchNorm) and m.running_mean is None:
        why = "keeps no running statistics, so it couples the rows of a batch"
        raise Unreadable(f"layer '{name}' (BatchNorm) {why}")


def _refuse_ties(network: nn.Module) -> None:
    """Raise Unreadable if two names have one parameter."""
    first: dict[int, str] = {}
    for name, p in network.named_parameters(remove_duplicate=False):
        if (other := first.setdefault(id(p), name)) != name:
            raise Unreadable(f"'{other}' and '{name}' are one parameter")


def _refuse_inputs(network: nn.Module) -> None:
    """Raise Unreadable if the forward needs several arguments."""
    empty, kinds = inspect.Parameter.empty, (inspect.Parameter.POSITIONAL_ONLY,
                                             inspect.Parameter.POSITIONAL_OR_KEYWORD)  # fmt: skip
    every: Sequence[inspect.Parameter] = [*inspect.signature(network.forward).parameters.values()]
    needed = [p.name for p in every if p.default is empty and p.kind in kinds]
    needed += [p.name for p in every if p.default is empty and p.kind is p.KEYWORD_ONLY]
    if len(needed) > 1:
        raise Unreadable(f"the network takes {len(needed)} inputs ({', '.join(needed)}), not one")
