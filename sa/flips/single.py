"""Exact coordinate differences of one convolution's kernel in a network that is no chain.

The layers before the convolution run once. A change of W[o, c, u, v] by +-eps moves only map o, by
+-eps times the inputs that the entry (u, v) of the kernel multiplies. If the kernel is quantized,
one code changes, and the scale of map o may change too (`WeightMoves`).

``patterns``: if a norm, a step and another convolution follow, only the states of map o matter.
Every distinct pattern of a row and map is evaluated once, as in a chain (`sa.flips.maps`).

``suffixes``: otherwise the real numbers of map o matter. The rest of the network then runs for
every coordinate, on the rows in which the coordinate moves map o.

In both methods, a block of the rest that begins with a step runs once for all changes of a row that
give the same states after this step.

For a quantized kernel, the sums of codes are stored and moved, and scales are applied after the
sum, as in a forward. So a sum that is exactly 0 is exactly 0 in both, and a state at its threshold
is the same in both.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sa.flips import chain, maps
from sa.flips.distinct import distinct
from sa.network.structure import Block, Cut
from sa.params import ranges
from sa.types import Batch, Params

PIECE = 1 << 19
"""The most numbers of one layer's maps that the rest takes at once, in ``suffixes``."""


def differences(
    cut: Cut,
    params: Params,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    epsilons: Sequence[float],
    sums: Sequence[Tensor],
    room: int,
) -> tuple[float, str]:
    """Add the differences of a kernel W to ``sums``, and return the cost and the method.

    Args:
        cut: the network cut open at the convolution.
        params: every parameter and running statistic, by name.
        batch: the rows.
        criterion: (outputs, targets) -> row losses.
        epsilons: the steps, above 0.
        sums: one tensor of the shape of W for each eps; gets the sums over rows of
            loss(+eps) - loss(-eps).
        room: how many numbers one piece of work may hold.

    Returns:
        The cost in rows of whole forwards, and ``patterns`` or ``suffixes``.

    """
    x, kept = cut.before(params, batch.inputs)
    kernels = cut.kernels(params)
    view = chain.run(
        cut.links, params | {k: w for k, (w, _) in kernels.items()}, Batch(x, batch.targets),
        criterion, False, room, _rest(cut, params, kept), _factors(cut, kernels),
    )  # fmt: skip
    weight = params[cut.links[0].weight]
    steps = [_up_down(cut, weight, epsilon) for epsilon in epsilons]
    act = _patterns if cut.links[0].step else _suffixes
    for start, stop in ranges(len(x), max(1, room // (4 * _numbers(view, len(epsilons))))):
        act(view, steps, [s.view(len(s), -1) for s in sums], start, stop)
    return len(x) + cut.share * view.suffix_rows, act.__name__.strip("_")


def width(cut: Cut, params: Params, row: Batch) -> int:
    """Return how many numbers one row holds while its coordinates are computed."""
    x, kept = cut.before(params, row.inputs)
    return 8 * x.numel() + sum(k.numel() for k in kept)


def _numbers(view: chain.Chain, epsilons: int) -> int:
    """Return how many numbers one map of one row becomes as all its coordinates move."""
    layer = view.layers[0]
    each = layer.weight[0].numel() * layer.pre[0, 0].numel()
    return each if layer.link.step else 2 * epsilons * each


def _factors(cut: Cut, kernels: dict[str, tuple[Tensor, Tensor | None]]) -> Params:
    """Return the scales (out,) of links with codes for weights or with a step size, by name."""
    out = {}
    for link in cut.links:
        weight, scale = kernels[link.weight]
        coded = link.weight == cut.links[0].weight and cut.moves is not None
        if coded or scale is not None or link.step_size is not None:
            one = weight.new_ones(len(weight)) if scale is None else scale.flatten()
            out[link.weight] = (one * (link.step_size or 1.0)).expand(len(weight))
    return out


Change = tuple[Tensor, Tensor | None]
"""(change of a weight or code, new scale of its map or None), (out, taps) each."""


def _up_down(cut: Cut, weight: Tensor, epsilon: float) -> tuple[Change, Change]:
    """Return the changes of all coordinates by +eps, and by -eps."""
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
    view: chain.Chain, steps: list[tuple[Change, Change]], sums: list[Tensor], start: int, stop: int
) -> None:
    """Add the differences of rows start to stop to ``sums``, if a step follows."""
    layer = view.layers[0]
    seen = maps.patches(layer, start, stop)  # (rows, taps, P)
    by_place = seen.transpose(1, 2).contiguous()
    largest = seen.abs().amax(1, keepdim=True)
    speed = layer.pre.new_ones(len(layer.weight)) if layer.scale is None else layer.scale
    for ways, into in zip(steps, sums, strict=True):

        def move(
            rows: Tensor, units: Tensor, at: Tensor, ways: tuple[Change, Change] = ways
        ) -> maps.UpDown:
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
        for units, got in maps.patterns(view, 0, close, move, seen.shape[1], start):
            into.index_add_(0, units, got)


def _normed(view: chain.Chain, z: Tensor, units: Tensor) -> Tensor:
    """Return the pre-activations (c, m, taps) from the scaled sums z, one map (c,) of each row."""
    link = view.links[0]
    if link.bias:
        z = z + view.params[link.bias][units, None, None]
    if link.norm is None:
        return z
    gain, shift = chain.affine(link, view.params)
    return z * gain[units, None, None] + shift[units, None, None]


def _suffixes(
    view: chain.Chain, steps: list[tuple[Change, Change]], sums: list[Tensor], start: int, stop: int
) -> None:
    """Add the differences of rows start to stop to ``sums``; run the rest for each moved map."""
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
        for low, high in ranges(len(rows), many):
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
    """Return the rest of the network as a function of the links' outputs and their rows."""
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
    """Return the output of a block, and run its body once for each distinct pattern of a row."""
    x = block.enter(params, z)
    above = torch.cat([(x >= t).flatten(1) for t in block.thresholds], 1)
    first, same = distinct(above, rows)
    return block.body(params, x[first])[same].add_(block.shortcut(params, z))
