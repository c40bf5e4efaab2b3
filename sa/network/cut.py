"""Cuts a network that is no chain open at one convolution: into a part before it and one after."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call

from sa.network import codes
from sa.network.layers import Activation, Conv, Residual, step_size
from sa.network.structure import Apply, Block, Cut, Link, Norm, Step
from sa.network.traits import LayerQuantizer, traits
from sa.types import Params


@dataclass(frozen=True)
class _Keep:
    """A branch of a sum before the cut. Its output is stored and added after the cut."""

    branch: Apply


_Named = tuple[str, nn.Module]
"""A layer and its name."""


def cut(network: nn.Module, weight: str) -> Cut:
    """Return the network cut open at a convolution.

    Args:
        network: layers in a row and sums of two branches, in any nesting.
        weight: name of the convolution's kernel.

    Raises:
        ValueError: the network cannot be cut there.

    """
    name, _, kind = weight.rpartition(".")
    conv = dict(network.named_modules()).get(name)
    if kind != "weight" or not isinstance(conv, Conv):
        raise ValueError(f"'{weight}', which moves, is no convolution's kernel")
    for other, m in network.named_modules():
        if isinstance(m, LayerQuantizer):
            raise ValueError(f"the quantizer '{other}' keeps a range or levels from data")
    own = traits(conv.quantize)
    moves = None if own.identity else own.moves
    if moves is None and not own.identity:
        raise ValueError(f"one coordinate of '{weight}' moves others through {conv.quantize}")
    before, after = _walk(network, name)
    links, behind = [_link(name, conv)], _stepped(after)
    convs = {weight: conv}
    if behind is not None:
        norm, step, (inner, other), count = behind
        links = [_link(name, conv, norm, step), _link(inner, other)]
        convs[links[1].weight] = other
        after = after[count:]

    def run(params: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for act in before:
            if isinstance(act, _Keep):
                kept.append(act.branch(params, x))
            else:
                x = act(params, x)
        return x, kept

    def kernels(params: Params) -> dict[str, tuple[Tensor, Tensor | None]]:
        return {k: _term(c, params[k]) for k, c in convs.items()}

    pieces = tuple(x if isinstance(x, int) else _piece(*x) for x in after)
    return Cut(tuple(links), run, kernels, moves, pieces)


def _link(name: str, conv: Conv, norm: Norm | None = None, step: Step | None = None) -> Link:
    """Return a convolution as a link, with the norm and the step that follow it."""
    bias = None if conv.bias is None else f"{name}.bias"
    size = step_size(conv.source) if isinstance(conv.quantize, codes.Coder) else None
    assert not isinstance(size, Tensor), "an activation that keeps its step size cannot be cut"
    return Link(
        f"{name}.weight", bias, step, conv.padding, norm=norm, stride=conv.stride, step_size=size
    )


def _term(conv: Conv, weight: Tensor) -> codes.Term:
    """Return the kernel that a convolution multiplies by, and its scale."""
    if not conv.quantize:
        return codes.Term(weight)
    terms = codes.of(conv.quantize, weight)
    return terms[0] if len(terms) == 1 else codes.Term(codes.decoded(terms))


def _walk(network: nn.Module, name: str) -> tuple[list[Apply | _Keep], list[_Named | int]]:
    """Return what runs before a layer and what runs after it, in order.

    A number i in the second list adds the output of the i-th `_Keep` in the first.
    """
    before: list[Apply | _Keep] = []
    after: list[_Named | int] = []
    module, at = network, ""
    for step in name.split("."):
        children = dict(module.named_children())
        if isinstance(module, nn.Sequential):
            first = list(children).index(step)
            layers = [(at + k, m) for k, m in children.items()]
            before += [_apply(*x) for x in _flat(layers[:first])]
            after = [*_flat(layers[first + 1 :]), *after]
        elif isinstance(module, Residual):
            after = [sum(isinstance(x, _Keep) for x in before), *after]
            other = "shortcut" if step == "body" else "body"
            before.append(_Keep(_apply(at + other, children[other])))
        else:
            what = type(module).__name__
            raise ValueError(f"'{at[:-1]}' ({what}) is neither layers in a row nor a sum of two")
        module, at = children[step], f"{at}{step}."
    return before, after


def _flat(layers: list[_Named]) -> list[_Named]:
    """Return layers in a row, with every inner row replaced by its layers."""
    out: list[_Named] = []
    for name, m in layers:
        row = isinstance(m, nn.Sequential)
        out += _flat([(f"{name}.{k}", x) for k, x in m.named_children()]) if row else [(name, m)]
    return out


def _apply(name: str, module: nn.Module) -> Apply:
    """Return a layer as a function of all parameters and its input."""
    keys = [k for k, _ in (*module.named_parameters(), *module.named_buffers())]
    if not keys:
        return lambda params, x: module(x)
    return lambda params, x: functional_call(module, {k: params[f"{name}.{k}"] for k in keys}, x)


def _stepped(after: list[_Named | int]) -> tuple[Norm | None, Step, tuple[str, Conv], int] | None:
    """Return the norm, the step and the convolution at the start of ``after``, and their number.

    The norm is None if there is none. The result is None if they do not come in this order.
    """
    layers = [x for x in after[:3] if not isinstance(x, int)]
    norm = None
    if len(layers) == len(after[:3]) == 3 and isinstance(layers[0][1], nn.BatchNorm2d):
        norm = Norm(layers[0][0], layers[0][1].eps)
    match layers[1 if norm else 0 :]:
        case [(_, Activation() as act), (name, Conv() as conv), *_]:
            if step := traits(act.quantize).step:
                return norm, step, (name, conv), 3 if norm else 2
    return None


def _piece(name: str, module: nn.Module) -> Apply | Block:
    """Return a layer as a function; as a `Block` if it is a sum whose body begins with a step."""
    if isinstance(module, Residual):
        body = _flat([(f"{name}.body", module.body)])
        for i, (_, m) in enumerate(body[:2]):
            step = traits(m.quantize).step if isinstance(m, Activation) else None
            if step:
                shortcut = _apply(f"{name}.shortcut", module.shortcut)
                return Block(_row(body[:i]), step.thresholds, _row(body[i:]), shortcut)
    return _apply(name, module)


def _row(layers: list[_Named]) -> Apply:
    """Return layers in a row as one function."""
    acts = [_apply(*x) for x in layers]

    def act(params: Params, x: Tensor) -> Tensor:
        for one in acts:
            x = one(params, x)
        return x

    return act
