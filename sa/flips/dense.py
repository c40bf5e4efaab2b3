"""Exact coordinate differences of one fully connected layer, every coordinate at once.

Let z = W a + b be the pre-activations of a layer followed by a step with thresholds t_j and levels
v_0 < v_1 < ... Moving W[i, j] by +-eps moves z[row, i] by +-eps a[row, j] and nothing else, so a
row's loss changes only if z[row, i] crosses a threshold, and by an amount that depends neither on
j nor on eps: the flip effect

    G_t[row, i] = loss(unit i at the level above t) - loss(unit i at the level below t),

everything downstream in that row recomputed. With n rows the central difference is

    CDG[i, j] = 1/(2 eps n) sum_t sum_row sgn(a_j) 1[-eps|a_j| <= z_i - t < eps|a_j|] G_t[row, i].

Inputs with few magnitudes (+-1, k-bit levels) collapse the sum over j into one matrix product a
magnitude; real inputs (the first layer) are a masked reduction over the rows close to a threshold.
For the squared error the last layer is its exact gradient and the last hidden layer has a closed
form. BatchNorm on running statistics multiplies a_j by its scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sa.flips.chain import Chain
from sa.params import blocks
from sa.types import Params


def effect(view: Chain, index: int, low: float, high: float, near: Tensor) -> Tensor:
    """G (rows, out) of one threshold, filled where ``near``; elsewhere 0 (or true anyway)."""
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
    """Add the sums over rows of loss(+eps) - loss(-eps) of a layer followed by a step."""
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
    """The same for the last layer, whose outputs go to the criterion."""
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
    """The distinct nonzero sizes of a layer's inputs, or None where they are real numbers."""
    if index == 0 or view.links[index].average:
        return None
    step = view.links[index - 1].step
    assert step is not None
    return sorted({abs(v) for v in step.levels if v != 0})


def _shifted(view: Chain, shift: Tensor) -> Tensor:
    """Change of each row's loss as one output moves by +-shift (rows, s): (rows, outputs, s)."""
    y, targets = view.layers[-1].pre, view.targets
    out = y.new_empty(*y.shape, shift.shape[1])
    for start, stop in blocks(len(y), max(1, view.room // (4 * y.shape[1] * shift.shape[1]))):
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
    return (gap >= -reach) & (gap < reach)


def _real(x: Tensor, gap: Tensor, gain: Tensor, near: Tensor, eps: Sequence[float]) -> Tensor:
    """Sums (E, out, in) of sgn(x_j) 1[-eps|x_j| <= gap_i < eps|x_j|] gain_i over the rows."""
    out = x.new_zeros(len(eps), gap.shape[1], x.shape[1])
    rows = near.T.nonzero()[:, 1].split(near.sum(0).tolist())
    widest, sizes, signs = x.abs().amax(1), x.abs(), x.sign()
    for i, r in enumerate(rows):
        g = gap[r, i]
        if len(eps) > 1:  # nested prefixes: every eps needs only the rows it can reach
            order = torch.argsort(g.abs() / widest[r])
            r, g = r[order], g[order]
        # gap >= 0 needs eps|x| > gap, gap < 0 needs eps|x| >= -gap: one comparison serves both
        need = torch.where(g >= 0, torch.nextafter(g, g.new_full((), torch.inf)), -g)
        reach = (need / widest[r]) if len(eps) > 1 else None
        size, sgn, value = sizes[r], signs[r], gain[r, i]
        for e, epsilon in enumerate(eps):
            # one entry more than the quotient says: its rounding must not cost a tie
            n = len(r) if reach is None else int((reach <= epsilon * (1 + 1e-9)).sum())
            hit = (size[:n] * epsilon).ge_(need[:n, None]).mul_(sgn[:n])
            out[e, i] += value[:n] @ hit
    return out


def jumps(view: Chain, index: int, widest: Tensor) -> tuple[Tensor, Tensor]:
    """How far every unit is from every threshold, and by how much its row's loss jumps there.

    widest (rows, out): jumps are wanted where the distance is at most that. Returns gaps and flip
    effects (rows, out, thresholds).
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
    """Where one unit's rows cross thresholds within reach, and by how much their losses jump.

    gap, gain (rows, thresholds): of the unit. speed (rows,): how fast it moves in each row. Returns
    shifts and jumps (c,), unsorted, and whether each crossing has happened at shift 0: those that
    have lie at or below 0, the others above.
    """
    rate = speed.unsqueeze(1).expand_as(gap)
    hit = (gap.abs() <= reach * rate.abs()) & (rate != 0)
    gap, gain, rate = gap[hit], gain[hit], rate[hit]
    # moving up the unit crosses at gap = 0, moving down just after
    happened = torch.where(rate > 0, gap >= 0, gap < 0)
    where = -gap / rate
    where = torch.where(happened, where, where.clamp(min=torch.finfo(where.dtype).tiny))
    return where, gain * rate.sign(), happened
