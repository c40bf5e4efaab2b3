"""Exact coordinate differences of one convolution's kernel in a network that is no chain.

What is before the convolution runs once. Moving W[o, c, u, v] by +-eps moves only map o, by +-eps
times the inputs seen through the kernel's position (u, v); of a quantized kernel a code and the
scale of map o may move (`WeightMoves`). Where a norm, a step and another convolution follow,
only the states of map o matter and every distinct pattern of a row and map is evaluated once, as in
a chain (``patterns``, `sa.flips.maps`). Elsewhere map o itself goes on as real numbers and the rest
of the network runs for every coordinate and row that it moves (``suffixes``). In both, a block of
the rest that begins with a step runs once for all that enter it with the same states of the same
row.

Of a quantized kernel the sums of codes are kept and moved, and scales come after, as in a forward:
a sum that is 0 is 0 in both, and so is the state at its threshold.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sa.flips import chain, maps
from sa.flips.distinct import distinct
from sa.network.structure import Block, Cut
from sa.params import blocks
from sa.types import Batch, Params

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
    kernels = cut.kernels(params)
    view = chain.run(
        cut.links, params | {k: w for k, (w, _) in kernels.items()}, Batch(x, batch.targets),
        criterion, False, room, _rest(cut, params, kept), _factors(cut, kernels),
    )  # fmt: skip
    weight = params[cut.links[0].weight]
    steps = [_moves(cut, weight, epsilon) for epsilon in epsilons]
    act = _patterns if cut.links[0].step else _suffixes
    for start, stop in blocks(len(x), max(1, room // (4 * _numbers(view, len(epsilons))))):
        act(view, steps, [s.view(len(s), -1) for s in sums], start, stop)
    return len(x) + cut.share * view.suffix_rows, act.__name__.strip("_")


def width(cut: Cut, params: Params, row: Batch) -> int:
    """Numbers that one row keeps for as long as its coordinates are worked on."""
    x, kept = cut.before(params, row.inputs)
    return 8 * x.numel() + sum(k.numel() for k in kept)


def _numbers(view: chain.Chain, epsilons: int) -> int:
    """Numbers of all coordinates' moves of one map in one row."""
    layer = view.layers[0]
    each = layer.weight[0].numel() * layer.pre[0, 0].numel()
    return each if layer.link.step else 2 * epsilons * each


def _factors(cut: Cut, kernels: dict[str, tuple[Tensor, Tensor | None]]) -> Params:
    """The scale (out,) of every link whose weights are codes or whose inputs have a step size."""
    out = {}
    for link in cut.links:
        weight, scale = kernels[link.weight]
        coded = link.weight == cut.links[0].weight and cut.moves is not None
        if coded or scale is not None or link.step_size is not None:
            one = weight.new_ones(len(weight)) if scale is None else scale.flatten()
            out[link.weight] = (one * (link.step_size or 1.0)).expand(len(weight))
    return out


Way = tuple[Tensor, Tensor | None]


def _moves(cut: Cut, weight: Tensor, epsilon: float) -> tuple[Way, Way]:
    """(change of a weight or code, scale or None) of +eps and -eps, (out, taps) each."""
    if cut.moves is None:
        by = torch.full_like(weight, epsilon).flatten(1)
        return (by, None), (-by, None)
    ways = []
    for e in (epsilon, -epsilon):
        change, scale = cut.moves(weight, e)
        factor = scale * (cut.links[0].step_size or 1.0)
        ways.append((change.flatten(1), factor.expand_as(weight).flatten(1)))
    return ways[0], ways[1]


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

        def moves(
            rows: Tensor, units: Tensor, at: Tensor, ways: tuple[Way, Way] = ways
        ) -> maps.Moves:
            x, place = by_place[rows[:, None], at], (start + rows[:, None], units[:, None], at)
            out = []
            for change, factor in ways:
                by = x * change[units].unsqueeze(1)
                if factor is None:
                    z = layer.pre.flatten(2)[place].unsqueeze(2)
                    out.append(z + by * speed[units, None, None])
                    continue
                z = by.add_(layer.sums.flatten(2)[place].unsqueeze(2))
                out.append(_normed(view, z.mul_(factor[units].unsqueeze(1)), units))
            return out[0], out[1]

        reach = torch.zeros_like(layer.pre[start:stop]).flatten(2)
        for change, factor in ways:
            far = change.abs() if factor is None else change.abs() * factor
            far = far.amax(1).view(-1, 1) * largest
            if factor is not None and layer.factor is not None:
                drift = (factor - layer.factor[:, None]).abs().amax(1).view(-1, 1)
                far = far + drift * layer.sums[start:stop].flatten(2).abs()
            reach = torch.maximum(reach, far * speed.abs().view(-1, 1) * (1 + 1e-9))
        close = maps.near(layer, reach, start)
        for units, got in maps.patterns(view, 0, close, moves, seen.shape[1], start):
            into.index_add_(0, units, got)


def _normed(view: chain.Chain, z: Tensor, units: Tensor) -> Tensor:
    """Pre-activations (c, m, taps) of one map each, from what the products were scaled to."""
    link = view.links[0]
    if link.bias:
        z = z + view.params[link.bias][units, None, None]
    if link.norm is None:
        return z
    gain, shift = chain.affine(link, view.params)
    return z * gain[units, None, None] + shift[units, None, None]


def _suffixes(
    view: chain.Chain, steps: list[tuple[Way, Way]], sums: list[Tensor], start: int, stop: int
) -> None:
    """The same where a map's numbers go on as they are: the rest runs for every moved one."""
    layer, tail = view.layers[0], view.tail
    assert tail is not None
    seen, base, z = maps.patches(layer, start, stop), view.losses, layer.pre
    taps, many = seen.shape[1], max(1, min(view.room // 4, PIECE) // z[0].numel())
    for unit in range(len(layer.weight)):
        now, ways = z[start:stop, unit].flatten(1).unsqueeze(1), []  # (rows, 1, P)
        for change, factor in (way for both in steps for way in both):
            by = seen * change[unit].view(-1, 1)
            if factor is None:
                ways.append(now + by)
                continue
            by += layer.sums[start:stop, unit].flatten(1).unsqueeze(1)
            ways.append(by.mul_(factor[unit].view(-1, 1)))
            if layer.link.bias:
                ways[-1] += view.params[layer.link.bias][unit]
        moved = torch.cat(ways, 1)  # (rows, eps x signs x taps, P)
        rows, which = (moved != now).any(2).nonzero(as_tuple=True)
        effect = torch.zeros(moved.shape[:2], dtype=z.dtype, device=z.device)
        for low, high in blocks(len(rows), many):
            r, k = rows[low:high], which[low:high]
            maps_ = z[start + r]
            maps_[:, unit] = moved[r, k].view(-1, *z.shape[2:])
            losses = view.criterion(tail(maps_, start + r), view.targets[start + r])
            effect[r, k] = losses - base[start + r]
        view.suffix_rows += len(rows)
        total = effect.sum(0).view(len(steps), 2, taps)
        for into, (plus, minus) in zip(sums, total, strict=True):
            into[unit] += plus - minus


def _rest(cut: Cut, params: Params, kept: list[Tensor]) -> chain.Tail:
    """What follows the links, from what leaves them and the rows that it belongs to."""
    if (rest := cut.rest) is not None:
        return lambda z, rows: rest(params, z, kept, rows)

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
