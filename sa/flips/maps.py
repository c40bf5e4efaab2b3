"""Exact coordinate differences of one convolution, every coordinate at once.

A change of W[o, c, u, v] by +-eps moves map o of a row at every position p, by +-eps x_p. Here x_p
is the input that the entry (u, v) of the kernel multiplies at p. Only positions close to a
threshold, |z_p - t| <= eps max|x|, can change state. The set of positions that do is a pattern.

``patterns``: many coordinates of one row and map share a pattern. So every distinct pattern is
evaluated once: its few changes of states are added to the next layer's pre-activations, and the
later layers run.

``counting``: if the maps are averaged and multiplied to the outputs, a pattern has an effect only
by the number of states in it. Two matrix products count them for every coordinate, and a table has
the row losses for each count.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.flips.chain import Chain, ChainLayer
from sa.flips.dense import magnitudes
from sa.flips.distinct import distinct
from sa.params import ranges
from sa.types import Params

TABLE = 1 << 12
"""The most possible patterns of one row and map that a table holds; more of them are sorted."""

UpDown = tuple[Tensor, Tensor]
"""The pre-activations (c, m, taps) after a change of a coordinate by +eps, and by -eps."""


def convolution(view: Chain, index: int, epsilons: Sequence[float], grads: list[Params]) -> str:
    """Add the differences of a convolution to ``grads``, and return the method that was used.

    Args:
        view: the rows.
        index: the convolution.
        epsilons: the steps, above 0.
        grads: one for each eps; gets the sums over rows of loss(+eps) - loss(-eps).

    Returns:
        ``patterns`` or ``counting``.

    """
    layer = view.layers[index]
    link, after = layer.link, view.layers[index + 1].link
    shape = layer.pre.shape  # (rows, out, h, w)
    for name, speed in layer.speeds(view.params, grads[0]).items():
        for grad, epsilon in zip(grads, epsilons, strict=True):
            x = epsilon * speed.expand(shape).flatten(2)  # (rows, out, P), one coordinate per map

            def own(rows: Tensor, units: Tensor, at: Tensor, x: Tensor = x) -> UpDown:
                by = x[rows[:, None], units[:, None], at].unsqueeze(2)
                return around(layer, rows, units, at, by)

            for units, sums in patterns(view, index, near(layer, x.abs()), own, 1):
                grad[name].index_add_(0, units, sums[:, 0])
    if link.weight not in grads[0]:
        return "patterns"
    sizes = magnitudes(view, index)
    assert link.step is not None
    count = after.average and len(link.step.levels) == 2 and sizes is not None and link.pool == 1
    rows, (taps, places) = len(layer.pre), (layer.weight[0].numel(), shape[2:].numel())
    table = shape[1] * (2 * places + 1) * len(view.layers[-1].weight) if count else 0
    for start, stop in ranges(rows, max(1, view.room // (4 * max(taps * places, table)))):
        seen = patches(layer, start, stop)  # (rows, taps, P)
        for grad, epsilon in zip(grads, epsilons, strict=True):
            into = grad[link.weight].view(len(layer.weight), -1)
            if count:
                into += _counting(view, index, seen, sizes or [], epsilon, start)
                continue
            speed = layer.pre.new_ones(shape[1]) if layer.scale is None else layer.scale
            widest = seen.abs().amax(1, keepdim=True) * speed.abs().view(1, -1, 1)
            close = near(layer, epsilon * widest, start)
            by_place, by_unit = seen.transpose(1, 2).contiguous(), epsilon * speed

            def kernel(
                rows: Tensor, units: Tensor, at: Tensor,
                x: Tensor = by_place, k: Tensor = by_unit, row0: int = start,
            ) -> UpDown:  # fmt: skip
                by = x[rows[:, None], at] * k[units, None, None]
                return around(layer, row0 + rows, units, at, by)

            for units, sums in patterns(view, index, close, kernel, taps, start):
                into.index_add_(0, units, sums)
    return "counting" if count else "patterns"


def around(layer: ChainLayer, rows: Tensor, units: Tensor, at: Tensor, by: Tensor) -> UpDown:
    """Return the pre-activations at some positions, moved up and down.

    Args:
        layer: the convolution.
        rows: (c,).
        units: (c,), one map of each row.
        at: (c, m), positions in the flattened map.
        by: (c, m, taps), how far each coordinate moves them.

    """
    z = layer.pre.flatten(2)[rows[:, None], units[:, None], at].unsqueeze(2)
    return z + by, z - by


def patches(layer: ChainLayer, start: int, stop: int) -> Tensor:
    """Return the inputs (rows, taps, P) that each weight of a kernel multiplies at each position.

    start and stop select the rows. With pooling the inputs are averaged as the outputs are.
    """
    link, x = layer.link, layer.inputs[start:stop]
    seen = F.unfold(x, layer.weight.shape[2:], padding=link.padding or 0, stride=link.stride)
    if link.pool > 1:
        seen = F.avg_pool2d(seen.view(*seen.shape[:2], *x.shape[2:]), link.pool).flatten(2)
    return seen


def near(layer: ChainLayer, reach: Tensor, start: int = 0) -> Tensor:
    """Return whether each position (rows, out, P) is within reach of a threshold.

    Args:
        layer: the convolution.
        reach: (rows, out, P) for consecutive rows.
        start: the first of these rows.

    """
    z = layer.pre[start : start + len(reach)].flatten(2)
    assert layer.link.step is not None
    close = torch.zeros_like(z, dtype=torch.bool)
    for t in layer.link.step.thresholds:
        close |= (z - t).abs() <= reach
    return close


def patterns(
    view: Chain,
    index: int,
    near: Tensor,
    move: Callable[[Tensor, Tensor, Tensor], UpDown],
    taps: int,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield maps (c,) and the loss(+eps) - loss(-eps), (c, taps), of one row of each.

    Args:
        view: the rows.
        index: the convolution.
        near: (rows, out, P), the positions that may change state.
        move: (rows, maps, positions (c, m)) -> the pre-activations there after a change of each
            coordinate. It counts rows from ``start``.
        taps: number of coordinates of a map.
        start: the first row of ``near`` in the view.

    """
    counts = near.sum(2)
    for m in counts.unique().tolist():
        if m == 0:
            continue
        rows, units = (counts == m).nonzero(as_tuple=True)
        at = near[rows, units].nonzero()[:, 1].view(-1, m)
        for a, b in ranges(len(rows), max(1, view.room // (8 * m * taps))):
            r, u, p = rows[a:b], units[a:b], at[a:b]
            yield u, _each_pattern_once(view, index, start + r, u, p, *move(r, u, p))


def _each_pattern_once(
    view: Chain,
    index: int,
    rows: Tensor,
    units: Tensor,
    at: Tensor,
    up: Tensor,
    down: Tensor,
) -> Tensor:
    """Return loss(up) - loss(down), (c, taps), and evaluate each distinct pattern once.

    Args:
        view: the rows.
        index: the convolution.
        rows: (c,).
        units: (c,), one map of each row.
        at: (c, m), the positions that may change state.
        up: (c, m, taps), their pre-activations after +eps.
        down: (c, m, taps), their pre-activations after -eps.

    """
    layer = view.layers[index]
    step = layer.link.step
    assert step is not None
    levels, (c, m, taps) = layer.pre.new_tensor(step.levels), up.shape
    place = rows[:, None], units[:, None], at
    z, acts = layer.pre.flatten(2)[place].unsqueeze(2), layer.acts.flatten(2)[place]
    base = view.losses[rows]
    states = [_state(x, step.thresholds) for x in (up, down)]
    now = _state(z, step.thresholds)
    out = up.new_zeros(c, taps)
    if len(levels) ** m > TABLE:
        for sign, state in zip((1, -1), states, strict=True):
            i, k = (state != now).any(1).nonzero(as_tuple=True)
            state = state[i, :, k]
            above = torch.cat([state > level for level in range(len(levels) - 1)], 1)
            first, same = distinct(above, i)
            j = i[first]
            change = levels[state[first].long()] - acts[j]
            losses = view.maps(index, rows[j], units[j], at[j], change)[same]
            out.index_put_((i, k), sign * (losses - base[i]), accumulate=True)
        return out
    power = len(levels) ** torch.arange(m, device=z.device)
    codes = [_code(state, power) for state in states]
    table = up.new_zeros(c, len(levels) ** m)
    met = torch.zeros_like(table, dtype=torch.bool)
    for code in codes:
        met.scatter_(1, code, True)
    met.scatter_(1, _code(now, power), False)
    i, code = met.nonzero(as_tuple=True)
    change = levels[code[:, None] // power % len(levels)] - acts[i]
    table[i, code] = view.maps(index, rows[i], units[i], at[i], change) - base[i]
    return table.gather(1, codes[0]) - table.gather(1, codes[1])


def _state(z: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return the number of the level of each entry of z, from 0."""
    state = torch.zeros_like(z, dtype=torch.int8)
    for t in thresholds:
        state += z >= t
    return state


def _code(state: Tensor, power: Tensor) -> Tensor:
    """Return one number (c, taps) for the states (c, m, taps) of m positions.

    power (m,) is the number of levels to the power of 0, 1, ..., m - 1.
    """
    code = torch.zeros_like(state[:, 0], dtype=torch.int64)
    for j, p in enumerate(power.tolist()):
        code.add_(state[:, j], alpha=p)
    return code


def _counting(
    view: Chain, index: int, seen: Tensor, sizes: Sequence[float], epsilon: float, start: int
) -> Tensor:
    """Return the sums over rows of loss(+eps) - loss(-eps) by counting states.

    The step has two levels, and its maps are averaged and multiplied to the outputs.

    Args:
        view: the rows.
        index: the convolution.
        seen: (rows, taps, P), the inputs that each weight multiplies.
        sizes: the distinct |x| > 0 of the inputs.
        epsilon: the step, above 0.
        start: the first row of ``seen`` in the view.

    Returns:
        (out, taps).

    """
    layer, head = view.layers[index], view.layers[index + 1]
    step, rows = layer.link.step, slice(start, start + len(seen))
    assert step is not None
    (t,), (low, high) = step.thresholds, step.levels
    gap = layer.pre[rows].flatten(2) - t  # (rows, out, P)
    speed = None if layer.scale is None else layer.scale.view(1, -1, 1)
    steady = gap.new_zeros((*gap.shape[:2], seen.shape[1]), dtype=torch.float32)
    drift, reach = steady.clone(), 0
    for size in sizes:
        r = epsilon * size * (1.0 if speed is None else speed.abs())
        # float32 counts up to 2^24 without error
        up, down = ((gap < 0) & (gap >= -r)).float(), ((gap >= 0) & (gap < r)).float()
        at = (seen.abs() == size).float()
        signed = at * seen.sign().float()
        steady.baddbmm_(up - down, at.mT)
        drift.baddbmm_(up + down, signed.mT)
        reach = max(reach, int((up + down).sum(2).max()))
    if speed is not None:
        drift *= speed.sign().float()
    reach *= len(sizes)
    weight = head.weight.T * ((high - low) / gap.shape[2])  # (out, outputs)
    count = torch.arange(-reach, reach + 1, device=gap.device).to(gap.dtype)
    moved = head.pre[rows, None, None] + count[:, None] * weight[:, None]  # (rows, out, counts, y)
    targets = view.targets[rows].repeat_interleave(moved.shape[1] * moved.shape[2], 0)
    view.suffix_rows += len(targets)
    table = view.criterion(moved.flatten(0, 2), targets).view(moved.shape[:3])
    plus, minus = ((steady + s * drift).div_(2).add_(reach).long() for s in (1, -1))
    return (table.gather(2, plus) - table.gather(2, minus)).sum(0)
