"""Exact coordinate differences of one fully connected layer, every coordinate at once.

Let z = W a + b be the pre-activations of a layer. A step with thresholds t_j and levels v_0 < v_1 <
... follows. A change of W[i, j] by +-eps moves z[row, i] by +-eps a[row, j] and nothing else. So
the loss of a row changes only if z[row, i] crosses a threshold t. The change does not depend on j
or eps. It is the flip effect

    G_t[row, i] = loss(unit i at the level above t) - loss(unit i at the level below t),

where all later layers are computed again for that row. With n rows the central difference is

    CDG[i, j] = 1/(2 eps n) sum_t sum_row sgn(a_j) 1[-eps|a_j| <= z_i - t < eps|a_j|] G_t[row, i].

If the inputs have few magnitudes (+-1, k-bit levels), one matrix product for each magnitude gives
the sums for all i and j. For real inputs (the first layer) the sums run over the rows close to a
threshold. With the squared error, the difference of the last layer is its exact gradient, and G of
the last hidden layer has a closed form. BatchNorm on running statistics multiplies a_j by its
scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sa.flips.chain import Chain
from sa.params import ranges
from sa.types import Params


def effect(view: Chain, index: int, low: float, high: float, near: Tensor) -> Tensor:
    """Return the flip effect G of one threshold.

    Args:
        view: the rows.
        index: the layer.
        low: the level below the threshold.
        high: the level above it.
        near: (rows, out), where G is needed.

    Returns:
        (rows, out). Where G is not needed it may be 0.

    """
    layer, last = view.layers[index], view.layers[-1]
    if view.quadratic and index == len(view.layers) - 2:
        w = last.weight
        pull = (last.pre - view.targets) @ w  # h = r W
        square = (w * w).sum(0)
        gain = 2 * (high - low) * pull
        gain += ((high - layer.acts) ** 2 - (low - layer.acts) ** 2) * square
        return gain / len(w)
    out = torch.zeros_like(layer.pre)
    rows, units = near.nonzero(as_tuple=True)
    acts, base = layer.acts[rows, units], view.losses[rows]
    above, below = base.clone(), base
    moved = acts != high
    above[moved] = view.suffix(index, rows[moved], units[moved], high)
    moved = acts != low
    below[moved] = view.suffix(index, rows[moved], units[moved], low)
    out[rows, units] = above - below
    return out


def hidden(view: Chain, index: int, epsilons: Sequence[float], grads: list[Params]) -> None:
    """Add the differences of a layer that a step follows to ``grads``.

    Args:
        view: the rows.
        index: the layer.
        epsilons: the steps, above 0.
        grads: one for each eps; gets the sums over rows of loss(+eps) - loss(-eps).

    """
    layer = view.layers[index]
    link = layer.link
    own = layer.speeds(view.params, grads[0])
    speed = None if layer.scale is None else layer.scale.abs()  # (out,)
    sizes = magnitudes(view, index)
    widest = layer.inputs.abs().amax(1, keepdim=True)
    if speed is not None:
        widest = widest * speed
    for x in own.values():
        widest = torch.maximum(widest, x.abs())
    levels = link.step.levels if link.step else ()
    thresholds = link.step.thresholds if link.step else ()
    for t, low, high in zip(thresholds, levels[:-1], levels[1:], strict=True):
        gap = layer.pre - t
        near = gap.abs() <= max(epsilons) * widest
        gain = effect(view, index, low, high, near)
        for name, x in own.items():
            for grad, epsilon in zip(grads, epsilons, strict=True):
                grad[name] += (gain * x.sign() * _window(gap, epsilon * x.abs())).sum(0)
        if link.weight not in grads[0]:
            continue
        if speed is not None and layer.scale is not None:
            gain = gain * layer.scale.sign()
        if sizes is None:
            sums = _real(layer.inputs, gap if speed is None else gap / speed, gain, near, epsilons)
            for grad, total in zip(grads, sums, strict=True):
                grad[link.weight] += total
            continue
        for size in sizes:
            inputs = layer.inputs.sign() * (layer.inputs.abs() == size)
            for grad, epsilon in zip(grads, epsilons, strict=True):
                reach = epsilon * size if speed is None else epsilon * size * speed
                grad[link.weight] += (gain * _window(gap, reach)).T @ inputs


def last(view: Chain, epsilons: Sequence[float], grads: list[Params]) -> None:
    """Add the differences of the last layer, which has no step, to ``grads``; see `hidden`."""
    layer = view.layers[-1]
    link, y = layer.link, layer.pre
    if view.quadratic:  # a quadratic's central difference is its derivative, for any eps
        slope = (y - view.targets) * (2 / y.shape[1])
        for grad, epsilon in zip(grads, epsilons, strict=True):
            if link.weight in grad:
                grad[link.weight] += 2 * epsilon * (slope.T @ layer.inputs)
            if link.bias in grad:
                grad[str(link.bias)] += 2 * epsilon * slope.sum(0)
        return
    sizes = magnitudes(view, len(view.layers) - 1)
    for grad, epsilon in zip(grads, epsilons, strict=True):
        if link.bias in grad:
            grad[str(link.bias)] += _shifted(view, y.new_full((len(y), 1), epsilon)).sum((0, 2))
        if link.weight not in grad:
            continue
        if sizes is None:
            grad[link.weight] += _shifted(view, epsilon * layer.inputs).sum(0)
            continue
        for size in sizes:
            inputs = layer.inputs.sign() * (layer.inputs.abs() == size)
            moved = _shifted(view, y.new_full((len(y), 1), epsilon * size))[..., 0]
            grad[link.weight] += moved.T @ inputs


def magnitudes(view: Chain, index: int) -> list[float] | None:
    """Return the distinct |x| > 0 of a layer's inputs; None if they are real numbers."""
    if index == 0 or view.links[index].average:
        return None
    step = view.links[index - 1].step
    assert step is not None
    return sorted({abs(v) for v in step.levels if v != 0})


def _shifted(view: Chain, shift: Tensor) -> Tensor:
    """Return loss(+shift) - loss(-shift) of one output of each row.

    Args:
        view: the rows.
        shift: (rows, s), s changes of one output.

    Returns:
        (rows, outputs, s).

    """
    y, targets = view.layers[-1].pre, view.targets
    out = y.new_empty(*y.shape, shift.shape[1])
    for start, stop in ranges(len(y), max(1, view.room // (4 * y.shape[1] * shift.shape[1]))):
        part, by = y[start:stop], shift[start:stop]
        told = targets[start:stop].repeat_interleave(by.shape[1], 0)
        for i in range(y.shape[1]):
            losses = []
            for sign in (1, -1):
                moved = part[:, None].repeat(1, by.shape[1], 1)  # (rows, s, outputs)
                moved[..., i] += sign * by
                losses.append(view.criterion(moved.flatten(0, 1), told).view_as(by))
            out[start:stop, i] = losses[0] - losses[1]
    return out


def _window(gap: Tensor, reach: Tensor | float) -> Tensor:
    """Return whether a unit at a distance gap from a threshold crosses it within +-reach."""
    return (gap >= -reach) & (gap < reach)


def _real(x: Tensor, gap: Tensor, gain: Tensor, near: Tensor, eps: Sequence[float]) -> Tensor:
    """Return the sums over rows of sgn(x_j) 1[-eps|x_j| <= gap_i < eps|x_j|] gain_i.

    Args:
        x: (rows, in), real inputs.
        gap: (rows, out), distances from the threshold.
        gain: (rows, out), flip effects.
        near: (rows, out), whether the largest eps can reach the threshold.
        eps: E steps.

    Returns:
        (E, out, in).

    """
    out = x.new_zeros(len(eps), gap.shape[1], x.shape[1])
    rows = near.T.nonzero()[:, 1].split(near.sum(0).tolist())
    widest, sizes, signs = x.abs().amax(1), x.abs(), x.sign()
    for i, r in enumerate(rows):
        g = gap[r, i]
        if len(eps) > 1:  # sort the rows: each eps needs only the first ones, which it can reach
            order = torch.argsort(g.abs() / widest[r])
            r, g = r[order], g[order]
        # a crossing needs eps|x| > gap if gap >= 0, and eps|x| >= -gap if gap < 0
        need = torch.where(g >= 0, torch.nextafter(g, g.new_full((), torch.inf)), -g)
        reach = (need / widest[r]) if len(eps) > 1 else None
        size, sgn, value = sizes[r], signs[r], gain[r, i]
        for e, epsilon in enumerate(eps):
            # the quotient is rounded: allow for it, or a row exactly at eps could be missed
            n = len(r) if reach is None else int((reach <= epsilon * (1 + 1e-9)).sum())
            hit = (size[:n] * epsilon).ge_(need[:n, None]).mul_(sgn[:n])
            out[e, i] += value[:n] @ hit
    return out


def jumps(view: Chain, index: int, widest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of every unit from every threshold, and the flip effects.

    Args:
        view: the rows.
        index: the layer.
        widest: (rows, out), the largest distance for which the flip effect is needed.

    Returns:
        Distances and flip effects, (rows, out, thresholds) each.

    """
    layer = view.layers[index]
    step = layer.link.step
    assert step is not None
    gaps = layer.pre.unsqueeze(2) - layer.pre.new_tensor(step.thresholds)
    gains = [
        effect(view, index, low, high, gaps[..., t].abs() <= widest)
        for t, (low, high) in enumerate(zip(step.levels[:-1], step.levels[1:], strict=True))
    ]
    return gaps, torch.stack(gains, 2)


def crossings(
    gap: Tensor, gain: Tensor, speed: Tensor, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where one unit crosses thresholds as a coordinate shifts, and how the losses jump.

    Args:
        gap: (rows, thresholds), distances of the unit.
        gain: (rows, thresholds), flip effects of the unit.
        speed: (rows,), the derivative of the unit's pre-activation with respect to the coordinate.
        reach: the largest shift, in both directions.

    Returns:
        Shifts (c,), unsorted; jumps (c,) of the sum of losses there; and whether the unit is past
        each crossing at shift 0, which is so for shifts <= 0 and not for others.

    """
    rate = speed.unsqueeze(1).expand_as(gap)
    hit = (gap.abs() <= reach * rate.abs()) & (rate != 0)
    gap, gain, rate = gap[hit], gain[hit], rate[hit]
    # at gap = 0 a unit is already above the threshold, so on its way down it crosses just after
    happened = torch.where(rate > 0, gap >= 0, gap < 0)
    where = -gap / rate
    where = torch.where(happened, where, where.clamp(min=torch.finfo(where.dtype).tiny))
    return where, gain * rate.sign(), happened
