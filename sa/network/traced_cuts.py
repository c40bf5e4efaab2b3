"""Cuts a traced network open at a fully connected map or a convolution."""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, fx

from sa.network import operations as ops
from sa.network.operations import label, operation
from sa.network.structure import Cut, Link, Norm, Step
from sa.network.trace import Env, Trace, Unreadable
from sa.network.traced_chain import inside, once
from sa.params import ranges
from sa.types import Params

LEAST = 1e-3
"""The least value of `Cut.share`: the cost of the rest is never counted as less than this."""


@dataclass(frozen=True)
class _Place:
    """The place of a cut: an affine map, with the norm and the step after it.

    Args:
        node: the node of the affine map.
        map: the affine map.
        last: the node of the step; the node of the map if no step follows.
        norm: the BatchNorm, if norm and step follow.
        step: the step, if one follows.

    """

    node: fx.Node
    map: ops.Affine
    last: fx.Node
    norm: Norm | None = None
    step: Step | None = None


PIECE = 1 << 21
"""The most numbers of one operation after a cut that are computed at once."""


def cut(trace: Trace, weight: str) -> tuple[Cut, float]:
    """Return the network cut open at an affine map, and the cost of the map's differences.

    The operations before the map run once. If a step follows, after a norm or none, only its states
    matter to the rest. Then the cut has a second link, the identity, which passes the states on.

    Args:
        trace: the network.
        weight: name of the map's weights.

    Returns:
        The cut, and an upper limit of the cost in forwards.

    Raises:
        Unreadable: the network cannot be cut there.

    """
    place = _place(trace, weight)
    rest = _dependent(trace, place.last)
    sizes = {n for n in _needed(rest) if trace.is_size(n)}
    while more := {n for n in _needed(sizes) if trace.is_size(n)} - sizes:
        sizes |= more
    inner = [n for n in trace.nodes if n in rest or n in sizes]
    kept = [n for n in [trace.source, *trace.nodes]
            if n in _needed({*inner}) - {*inner, place.last}]  # fmt: skip
    if trace.result is not place.last and trace.result not in rest:
        raise Unreadable(f"the output does not depend on {label(trace, place.node)}")
    rows = {n for n in kept if _of_rows(trace, n)}
    entering = place.node.args[0] if place.node.args else place.node.all_input_nodes[0]
    ahead = _ancestors(trace, {*kept, entering})  # type: ignore[arg-type]
    shape = ops.shape(trace, place.node)
    many = max(1, int(PIECE / max(_numbers(trace, n) for n in [place.last, *inner])))

    def before(params: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        values: Env = {trace.source: x}
        trace.run(ahead, values, params)
        return _as_maps(place, values[entering]), [values[n] for n in kept]  # type: ignore[index]

    def rest_(params: Params, z: Tensor, held: list[Tensor], at: Tensor) -> Tensor:
        parts = []
        for start, stop in ranges(len(z), many):
            r = at[start:stop]
            values: Env = {n: v[r] if n in rows else v for n, v in zip(kept, held, strict=True)}
            values[place.last] = _from_maps(place, z[start:stop], shape)
            trace.run(inner, values, params)
            parts.append(values[trace.result])
        return torch.cat(parts)

    def kernels(params: Params) -> dict[str, tuple[Tensor, Tensor | None]]:
        w = params[weight]
        out: dict[str, tuple[Tensor, Tensor | None]] = {weight: (_kernel(place, w), None)}
        if place.step is not None:
            one = torch.eye(len(w), dtype=w.dtype, device=w.device)
            out[_states(weight)] = (one[..., None, None], None)
        return out

    share = max(LEAST, _work(trace, inner) / _work(trace, trace.nodes))
    found = Cut(_links(place), before, kernels, None, (), rest=rest_, share=share)
    return found, 1 + share * _moved(trace, place)


def _moved(trace: Trace, place: _Place) -> int:
    """Return an upper limit of the runs of the rest for one row.

    There is one run for each coordinate up and one down. After a step there is at most one for each
    other pattern of the states of a map.
    """
    w, shape = trace.params[place.map.weight], ops.shape(trace, place.node)
    runs = 2 * w.numel()
    if place.step is not None:
        places = prod(shape[1:]) // len(w)
        runs = min(runs, len(w) * (len(place.step.levels) ** min(places, 32) - 1))
    return runs


def _place(trace: Trace, weight: str) -> _Place:
    """Return the place of the affine map with this weight; raise Unreadable if there is none."""
    once(trace, weight)
    for node in trace.nodes:
        what = operation(trace, node) if weight in _weights(trace, node) else None
        if isinstance(what, ops.Affine) and what.weight == weight:
            return _followed(trace, _Place(node, what, node))
        if isinstance(what, ops.Other):
            raise Unreadable(what.why)
    raise Unreadable(f"'{weight}' is not the weight of a fully connected map or a convolution")


def _weights(trace: Trace, node: fx.Node) -> list[str]:
    """Return the names of the parameters that a node uses, as a layer or as inputs."""
    nodes = [n for n in node.all_input_nodes if n.op == "get_attr"] + [node]
    return [name for n in nodes if n.op != "get_attr" or n is not node for name in
            trace.own(n).values()]  # fmt: skip


def _followed(trace: Trace, place: _Place) -> _Place:
    """Return the place with the norm and the step after the map.

    If something else follows, or uses a value between them, return the place as it is.
    """
    found, clip, node = place, ops.Clip(float("-inf"), float("inf")), place.node
    shape = ops.shape(trace, node)
    while len(users := trace.users(node)) == 1 and node is not trace.result:
        node = users[0]
        what = operation(trace, node) if node.op != "output" else None
        if ops.shape(trace, node) != shape:
            return place
        match what:
            case ops.Unchanged():
                continue
            case Norm() if found.norm is None and len(shape) == (
                2 if found.map.padding is None else 4
            ):
                found = replace(found, norm=what)
            case ops.Clip():
                clip = ops.Clip(max(clip.low, what.low), min(clip.high, what.high))
            case Step() if inside(what, clip):
                return replace(found, step=what, last=node)
            case _:
                return place
    return place


def _links(place: _Place) -> tuple[Link, ...]:
    """Return the links of the cut: the map, and after a step the identity."""
    what = place.map
    first = Link(
        what.weight, what.bias, place.step, what.padding or 0, norm=place.norm, stride=what.stride
    )
    return (first, Link(_states(what.weight), padding=0)) if place.step is not None else (first,)


def _states(weight: str) -> str:
    """Return the name of the identity that passes on the states after a map."""
    return f"{weight} states"


def _kernel(place: _Place, w: Tensor) -> Tensor:
    """Return the weights of a map as a kernel; of a fully connected one, as a 1x1 kernel."""
    return w[..., None, None] if place.map.padding is None else w


def _as_maps(place: _Place, x: Tensor) -> Tensor:
    """Return inputs (rows, ..., in) of a fully connected map as maps (rows, in, places, 1)."""
    if place.map.padding is not None:
        return x
    return x.movedim(-1, 1).reshape(len(x), x.shape[-1], -1, 1)


def _from_maps(place: _Place, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return maps (rows, out, places, 1) as outputs (rows, ..., out) of a fully connected map."""
    if place.map.padding is not None:
        return z
    return z.reshape(len(z), z.shape[1], *shape[1:-1]).movedim(1, -1)


def _of_rows(trace: Trace, node: fx.Node) -> bool:
    """Return whether the first axis of a node's value is the rows.

    Raises:
        Unreadable: the value depends on the rows and does not have them on its first axis, or it is
            no tensor.

    """
    value = trace.values[node]
    depends = node is trace.source or trace.source in _ancestors_of({node})
    if not isinstance(value, Tensor) or (depends and value.shape[:1] != (trace.rows,)):
        raise Unreadable(f"{label(trace, node)} gives no tensor with a part for each row")
    return depends


def _ancestors_of(nodes: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes and all nodes that they depend on."""
    found, left = set(nodes), list(nodes)
    while left:
        more = [n for n in left.pop().all_input_nodes if n not in found]
        found.update(more)
        left += more
    return found


def _ancestors(trace: Trace, nodes: set[fx.Node]) -> list[fx.Node]:
    """Return the nodes and all nodes that they depend on, in the order of the forward."""
    found = _ancestors_of(nodes)
    return [n for n in trace.nodes if n in found]


def _dependent(trace: Trace, node: fx.Node) -> set[fx.Node]:
    """Return all nodes that depend on a node."""
    found: set[fx.Node] = set()
    for n in trace.nodes:
        if any(x is node or x in found for x in n.all_input_nodes):
            found.add(n)
    return found


def _needed(nodes: set[fx.Node]) -> set[fx.Node]:
    """Return the inputs of nodes."""
    return {x for n in nodes for x in n.all_input_nodes}


def _work(trace: Trace, nodes: list[fx.Node]) -> float:
    """Return about how many operations nodes take for a row: products with weights, and results.

    A value counts one operation for each of its numbers.
    """
    total = 0.0
    for node in nodes:
        numbers = _numbers(trace, node)
        kernels = [w for name in _weights(trace, node) if (w := trace.params[name]).dim() > 1]
        total += numbers + sum(w.numel() * max(1.0, numbers / len(w)) for w in kernels)
    return total


def _numbers(trace: Trace, node: fx.Node) -> float:
    """Return how many numbers a node's value has for each row; 0 if it is not computed."""
    value = trace.values[node]
    value = value[0] if isinstance(value, tuple) and value else value
    computed = isinstance(value, Tensor) and node.op != "get_attr"
    return value.numel() / trace.rows if computed else 0.0
