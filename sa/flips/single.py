"""Exact coordinate differences of one convolution's kernel in a network that is no chain.

What is before the convolution runs once. Moving W[o, c, u, v] by +-eps moves only map o, by +-eps
times the inputs seen through the kernel's position (u, v); a quantized kernel may move a little
everywhere (`sa.types.Moves`). Where a norm, a step and another convolution follow, only the states
of map o matter and every distinct pattern of a row and map is evaluated once, as in a chain
(``patterns``, `sa.flips.maps`). Elsewhere map o itself goes on as real numbers and the rest of the
network runs for every coordinate and row that it moves (``suffixes``). In both, a block of the rest
that begins with a step runs once for all that enter it with the same states of the same row.

Where a sum cancels to 0 exactly and a scale is no power of two (xnor weights before a norm without
shift), a state at its threshold is a matter of rounding, and two forwards differ there as well.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sa.flips import chain, maps
from sa.flips.distinct import distinct
from sa.types import Batch, Block, Cut, Params, blocks

PIECE = 1 << 19
"""Numbers of one layer's maps that the rest of the network takes together, of ``suffixes``."""


def differences(
    cut: Cut,
    params: Params,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    epsilons: Sequence[float],
    sums: Sequence[Tensor],
    room: int,
) -> tuple[float, str]:
    """Add the sums over rows of loss(+eps) - loss(-eps), for every eps, to ``sums``, like W.

    params: every parameter and running statistic; room: how many numbers one piece of work may
    hold. Returns how many rows were run, and which way: ``patterns`` or ``suffixes``.
    """
    x, kept = cut.before(params, batch.inputs)
    view = chain.run(
        cut.links, params | cut.kernels(params), Batch(x, batch.targets), criterion, False, room,
        _rest(cut, params, kept),
    )  # fmt: skip
    weight = params[cut.links[0].weight]
    steps = [_moves(cut, weight, epsilon) for epsilon in epsilons]
    act = _patterns if cut.links[0].step else _suffixes
    for start, stop in blocks(len(x), max(1, room // (4 * _numbers(view, len(epsilons))))):
        act(view, steps, [s.view(len(s), -1) for s in sums], start, stop)
    return len(x) + view.suffix_rows, act.__name__.strip("_")


def width(cut: Cut, params: Params, row: Batch) -> int:
    """Numbers that one row keeps for as long as its coordinates are worked on."""
    x, kept = cut.before(params, row.inputs)
    return 8 * x.numel() + sum(k.numel() for k in kept)


def _numbers(view: chain.Chain, epsilons: int) -> int:
    """Numbers of all coordinates' moves of one map in one row."""
    layer = view.layers[0]
    each = layer.weight[0].numel() * layer.pre[0, 0].numel()
    return each if layer.link.step else 2 * epsilons * each


Way = tuple[Tensor | None, Tensor | None, Tensor]


def _moves(cut: Cut, weight: Tensor, epsilon: float) -> tuple[Way, Way]:
    """(shared, a, b) of +eps and -eps, (out, taps) each; None where the weight itself moves."""
    if cut.moves is None:
        b = torch.full_like(weight, epsilon).flatten(1)
        return (None, None, b), (None, None, -b)
    plus, minus = (tuple(v.flatten(1) for v in cut.moves(weight, e)) for e in (epsilon, -epsilon))
    return plus, minus  # type: ignore[return-value]


def _patterns(
    view: chain.Chain, steps: list[tuple[Way, Way]], sums: list[Tensor], start: int, stop: int
) -> None:
    """The differences of rows start to stop, where the states of one map are all that moves."""
    layer = view.layers[0]
    seen = maps.patches(layer, start, stop)  # (rows, taps, P)
    by_place = seen.transpose(1, 2).contiguous()
    largest = seen.abs().amax(1, keepdim=True)
    speed = layer.pre.new_ones(len(layer.weight)) if layer.scale is None else layer.scale
    for ways, into in zip(steps, sums, strict=True):
        reach = torch.zeros_like(layer.pre[start:stop]).flatten(2)
        kinds = []
        for shared, a, b in ways:
            common = None if shared is None else shared @ seen  # (rows, out, P)
            far = b.abs().amax(1).view(-1, 1) * largest
            if common is not None and a is not None:
                far = far + a.abs().amax(1).view(-1, 1) * common.abs()
            reach = torch.maximum(reach, far * speed.abs().view(-1, 1) * (1 + 1e-9))
            kinds.append((common, None if a is None else a * speed[:, None], b * speed[:, None]))

        def moves(rows: Tensor, units: Tensor, at: Tensor, kinds: list[Way] = kinds) -> maps.Moves:
            x, out = by_place[rows[:, None], at], []
            for common, a, b in kinds:
                out.append(x * b[units].unsqueeze(1))
                if common is not None and a is not None:
                    c = common[rows[:, None], units[:, None], at]
                    out[-1] += c.unsqueeze(2) * a[units].unsqueeze(1)
            return out[0], out[1]

        close = maps.near(layer, reach, start)
        for units, got in maps.patterns(view, 0, close, moves, seen.shape[1], start):
            into.index_add_(0, units, got)


def _suffixes(
    view: chain.Chain, steps: list[tuple[Way, Way]], sums: list[Tensor], start: int, stop: int
) -> None:
    """The same where a map's numbers go on as they are: the rest runs for every moved one."""
    layer, tail = view.layers[0], view.tail
    assert tail is not None
    seen, base, z = maps.patches(layer, start, stop), view.losses, layer.pre
    taps, many = seen.shape[1], max(1, min(view.room // 4, PIECE) // z[0].numel())
    for unit in range(len(layer.weight)):
        ways = []
        for shared, a, b in (way for both in steps for way in both):
            ways.append(seen * b[unit].view(-1, 1))
            if shared is not None and a is not None:
                ways[-1] += a[unit].view(-1, 1) * (shared[unit] @ seen).unsqueeze(1)
        moved = torch.cat(ways, 1)  # (rows, eps x signs x taps, P)
        rows, which = moved.any(2).nonzero(as_tuple=True)
        effect = torch.zeros(moved.shape[:2], dtype=z.dtype, device=z.device)
        for low, high in blocks(len(rows), many):
            r, k = rows[low:high], which[low:high]
            maps_ = z[start + r]
            maps_[:, unit] += moved[r, k].view(-1, *z.shape[2:])
            losses = view.criterion(tail(maps_, start + r), view.targets[start + r])
            effect[r, k] = losses - base[start + r]
        view.suffix_rows += len(rows)
        total = effect.sum(0).view(len(steps), 2, taps)
        for into, (plus, minus) in zip(sums, total, strict=True):
            into[unit] += plus - minus


def _rest(cut: Cut, params: Params, kept: list[Tensor]) -> chain.Tail:
    """What follows the links, from what leaves them and the rows that it belongs to."""

    def tail(z: Tensor, rows: Tensor) -> Tensor:
        for piece in cut.after:
            if isinstance(piece, int):
                z = z + kept[piece][rows]
            elif isinstance(piece, Block):
                z = _through(piece, params, z, rows)
            else:
                z = piece(params, z)
        return z

    return tail


def _through(block: Block, params: Params, z: Tensor, rows: Tensor) -> Tensor:
    """A block's output; its body runs once for every distinct pattern of a row's states."""
    x = block.enter(params, z)
    above = torch.cat([(x >= t).flatten(1) for t in block.thresholds], 1)
    first, same = distinct(above, rows)
    return block.body(params, x[first])[same].add_(block.shortcut(params, z))
