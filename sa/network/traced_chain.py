"""Reads a traced network as a chain of affine maps and steps."""

from dataclasses import replace

from torch import fx

from sa.flips import chain
from sa.network import operations as ops
from sa.network.operations import label, operation
from sa.network.structure import Link, Norm, Step
from sa.network.trace import Trace, Unreadable


def links(trace: Trace) -> list[Link]:
    """Return the network as links.

    Raises:
        Unreadable: the network is no chain. The message names the first part that does not fit.

    """
    walk = _Walk(trace)
    node, rest = trace.source, set(trace.nodes)
    while node is not trace.result:
        users = trace.users(node)
        if len(users) != 1:
            raise Unreadable(
                f"the output of {label(trace, node)} is used {len(users)} times: no chain"
            )
        node = users[0]
        walk.add(node)
        rest -= {node, *(n for n in node.all_input_nodes if n.op == "get_attr")}
    walk.end()
    if more := [n for n in rest if not trace.is_size(n)]:
        raise Unreadable(f"{label(trace, more[0])} is beside the chain")
    return walk.links


class _Walk:
    """The links of a chain, built by one operation after another."""

    def __init__(self, trace: Trace):
        self.trace = trace
        self.links: list[Link] = []
        self.average = False  # whether maps were averaged since the last affine map
        self.clip: tuple[fx.Node, ops.Clip] | None = None  # a step has to follow it

    def add(self, node: fx.Node) -> None:
        """Add the next operation; raise Unreadable if it is no part of a link."""
        what = operation(self.trace, node)
        if isinstance(what, ops.Other):
            raise Unreadable(what.why)
        if self.clip is not None and not isinstance(what, Step | ops.Unchanged):
            raise Unreadable(f"{label(self.trace, self.clip[0])} is not a step")
        if isinstance(what, ops.Affine):
            self._affine(node, what)
        elif not isinstance(what, ops.Unchanged) and not self._after(node, what):
            raise Unreadable(ops.neither(self.trace, node).why)

    def end(self) -> None:
        """Raise Unreadable if the last link is not the network's output."""
        if self.clip is not None:
            raise Unreadable(f"{label(self.trace, self.clip[0])} is not a step")
        if not self.links:
            raise Unreadable("the network has no affine map")
        if why := chain.why_no_fast_differences(self.links):
            raise Unreadable(why)

    def _affine(self, node: fx.Node, what: ops.Affine) -> None:
        """Begin a new link; raise Unreadable if a chain cannot have this affine map."""
        name, shape = label(self.trace, node), ops.before(self.trace, node)
        for parameter in filter(None, (what.weight, what.bias)):
            once(self.trace, parameter)
        if what.stride != 1:
            raise Unreadable(f"{name} has stride {what.stride}")
        if what.padding is None and len(shape) != 2:
            raise Unreadable(f"{name} takes inputs of {len(shape)} dimensions, not (rows, inputs)")
        if what.padding is not None and (self.average or len(shape) != 4):
            raise Unreadable(f"{name} takes no maps (rows, channels, height, width)")
        self.links.append(
            Link(what.weight, what.bias, None, what.padding, average=self.average)
        )  # fmt: skip
        self.average = False

    def _after(self, node: fx.Node, what: ops.Operation) -> bool:
        """Add an operation to the last link, and return whether it may follow there."""
        link = self.links[-1] if self.links else None
        shape, new = ops.before(self.trace, node), ops.shape(self.trace, node)
        if link is None or self.average:
            return False
        if link.step is not None:  # after a step, only an average over all positions may follow
            whole = isinstance(what, ops.Pool) and shape[2:] == (what.side, what.side)
            self.average = len(shape) == 4 and (whole or isinstance(what, ops.Average))
            return self.average
        maps = len(shape) == 4 and link.padding is not None
        match what:
            case ops.Pool() if maps and link.norm is None and link.pool == 1:
                self.links[-1] = replace(link, pool=what.side)
                return self._keeps_size(node)
            case Norm() if link.norm is None and (maps or link.padding is None):
                once(self.trace, f"{what.name}.weight")
                self.links[-1] = replace(link, norm=what)
            case ops.Clip() if self.clip is None:
                self.clip = node, what
            case Step() if self.clip is None or inside(what, self.clip[1]):
                self.links[-1], self.clip = replace(link, step=what), None
            case Step():
                raise Unreadable(
                    f"{label(self.trace, node)} has a threshold outside of the range of "
                    f"{label(self.trace, self.clip[0]) if self.clip else ''}"
                )
            case _:
                return False
        return new[0] == shape[0]

    def _keeps_size(self, node: fx.Node) -> bool:
        """Return whether the convolution before a pooling keeps height and width."""
        conv = node.all_input_nodes[0]
        return ops.before(self.trace, conv)[2:] == ops.shape(self.trace, conv)[2:]


def inside(step: Step, clip: ops.Clip) -> bool:
    """Return whether a step has the same values with and without the clip before it."""
    return all(clip.low < t <= clip.high for t in step.thresholds)


def once(trace: Trace, name: str) -> None:
    """Raise Unreadable if the forward does not use a parameter exactly once."""
    if (count := trace.uses(name)) != 1:
        layer = name.rpartition(".")[0]
        what = f"layer '{layer}'" if layer else f"'{name}'"
        raise Unreadable(f"{what} is used {count} times")
