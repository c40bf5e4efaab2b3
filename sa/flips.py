"""Exact coordinate differences of fully connected step networks, every coordinate at once.

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
form. Brute force is the oracle (`Objective.differences(path="brute")`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sa.types import Batch, Link, Params, Step, blocks

CANDIDATES = 1 << 14  # suffix rows evaluated together: a few MiB at common widths


def stepped(z: Tensor, step: Step) -> Tensor:
    """The step applied elementwise; half-open, so a threshold itself belongs to the level above."""
    out = torch.full_like(z, step.levels[0])
    for t, low, high in zip(step.thresholds, step.levels[:-1], step.levels[1:], strict=True):
        out.add_((z >= t).to(z.dtype), alpha=high - low)
    return out


def step_(z: Tensor, step: Step) -> Tensor:
    """The same in place where there are two levels; use the returned tensor."""
    if len(step.levels) > 2:
        return stepped(z, step)
    (t,), (low, high) = step.thresholds, step.levels
    return torch.add(z.new_full((), low), z.ge_(t), alpha=high - low, out=z)  # two passes


def obstacle(links: Sequence[Link], quadratic: bool) -> str | None:
    """Why a chain has no fast differences, or None if it has."""
    if any(link.step is None for link in links[:-1]):
        return f"no step function follows layer '{next(x for x in links if not x.step).weight}'"
    if links[-1].step is not None:
        return "the last layer's output goes through a step function"
    if len(links) == 1 and not quadratic:
        return f"layer '{links[0].weight}' has real inputs and the loss is not the squared error"
    return None


@dataclass
class _Layer:
    """One affine map on a block of rows: what goes in, comes out, and how it is stepped."""

    link: Link
    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)
    inputs: Tensor  # (rows, in)
    pre: Tensor  # (rows, out)
    acts: Tensor  # (rows, out), stepped; equal to pre on the last layer


@dataclass
class Chain:
    """A block of rows run through a chain of affine maps and steps."""

    layers: list[_Layer]
    targets: Tensor
    losses: Tensor  # (rows,)
    criterion: Callable[[Tensor, Tensor], Tensor]
    quadratic: bool
    suffix_rows: int = 0

    def suffix(self, index: int, rows: Tensor, units: Tensor, level: float) -> Tensor:
        """Losses (c,) of the given rows with one unit each of a layer set to a level."""
        out = torch.empty(len(rows), dtype=self.losses.dtype, device=self.losses.device)
        self.suffix_rows += len(rows)
        columns = self.layers[index + 1].weight.T.contiguous()
        for start, stop in blocks(len(rows), CANDIDATES):
            r, u = rows[start:stop], units[start:stop]
            change = level - self.layers[index].acts[r, u]
            z = columns[u].mul_(change[:, None]).add_(self.layers[index + 1].pre[r])
            for before, after in zip(
                self.layers[index + 1 : -1], self.layers[index + 2 :], strict=True
            ):
                assert before.link.step is not None
                z = torch.nn.functional.linear(
                    stepped(z, before.link.step), after.weight, after.bias
                )
            out[start:stop] = self.criterion(z, self.targets[r])
        return out

    def effect(self, index: int, low: float, high: float, near: Tensor) -> Tensor:
        """G (rows, out) of one threshold, filled where ``near``; elsewhere 0 (or true anyway)."""
        layer, last = self.layers[index], self.layers[-1]
        if self.quadratic and index == len(self.layers) - 2:
            w = last.weight
            pull = (last.pre - self.targets) @ w  # h = r W
            square = (w * w).sum(0)
            gain = 2 * (high - low) * pull
            gain += ((high - layer.acts) ** 2 - (low - layer.acts) ** 2) * square
            return gain / len(w)
        out = torch.zeros_like(layer.pre)
        rows, units = near.nonzero(as_tuple=True)
        acts, base = layer.acts[rows, units], self.losses[rows]
        above, below = base.clone(), base
        moved = acts != high
        above[moved] = self.suffix(index, rows[moved], units[moved], high)
        moved = acts != low
        below[moved] = self.suffix(index, rows[moved], units[moved], low)
        out[rows, units] = above - below
        return out


def chain(
    links: Sequence[Link], params: Params, batch: Batch, criterion: Callable, quadratic: bool
) -> Chain:
    """Run a block of rows through the links and keep every layer's view."""
    layers: list[_Layer] = []
    acts = batch.inputs.flatten(1)
    for link in links:
        weight, bias = params[link.weight], params[link.bias] if link.bias else None
        pre = torch.nn.functional.linear(acts, weight, bias)
        after = stepped(pre, link.step) if link.step else pre
        layers.append(_Layer(link, weight, bias, acts, pre, after))
        acts = after
    losses = criterion(acts, batch.targets)
    return Chain(layers, batch.targets, losses, criterion, quadratic)


def _windows(gap: Tensor, reach: Sequence[float]) -> list[Tensor]:
    return [(gap >= -r) & (gap < r) for r in reach]


def _real(x: Tensor, gap: Tensor, gain: Tensor, near: Tensor, eps: Sequence[float]) -> Tensor:
    """Sums (E, out, in) of sgn(x_j) 1[-eps|x_j| <= gap_i < eps|x_j|] gain_i over the rows."""
    out = x.new_zeros(len(eps), gap.shape[1], x.shape[1])
    rows = near.T.nonzero()[:, 1].split(near.sum(0).tolist())
    widest = x.abs().amax(1)
    for i, r in enumerate(rows):
        g = gap[r, i]
        if len(eps) > 1:  # nested prefixes: every eps needs only the rows it can reach
            order = torch.argsort(g.abs() / widest[r])
            r, g = r[order], g[order]
        # gap >= 0 needs eps|x| > gap, gap < 0 needs eps|x| >= -gap: one comparison serves both
        need = torch.where(g >= 0, torch.nextafter(g, g.new_full((), torch.inf)), -g)
        reach = (need / widest[r]) if len(eps) > 1 else None
        size, sgn = x[r].abs(), x[r].sign()
        value = gain[r, i]
        for e, epsilon in enumerate(eps):
            # one entry more than the quotient says: its rounding must not cost a tie
            n = len(r) if reach is None else int((reach <= epsilon * (1 + 1e-9)).sum())
            hit = (size[:n] * epsilon >= need[:n, None]).to(x.dtype).mul_(sgn[:n])
            out[e, i] += value[:n] @ hit
    return out


def differences(
    links: Sequence[Link],
    params: Params,
    moving: Sequence[str],
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    epsilons: Sequence[float],
    rows: int,
) -> tuple[list[Params], float]:
    """Central differences (loss(w + eps e) - loss(w - eps e)) / (2 eps), for every eps.

    params: every parameter of the chain; moving: the names wanted; rows: how many rows to hold at
    once. Returns a gradient an eps and the forward-equivalents spent. Exact up to rounding.
    """
    n = batch.rows
    grads = [{k: torch.zeros_like(params[k]) for k in moving} for _ in epsilons]
    work = 0.0
    for start, stop in blocks(n, rows):
        view = chain(links, params, batch.part(start, stop), criterion, quadratic)
        for index in range(len(links)):
            _layer_differences(view, index, epsilons, grads)
        # a forward, about a backward's worth of matrix products, and the suffixes
        work += 3 * (stop - start) / n + view.suffix_rows / n
    for grad, epsilon in zip(grads, epsilons, strict=True):
        for g in grad.values():
            g /= 2 * epsilon * n
    return grads, work


def _magnitudes(view: Chain, index: int) -> list[float] | None:
    """The distinct nonzero sizes of a layer's inputs, or None where they are real numbers."""
    if index == 0:
        return None
    step = view.layers[index - 1].link.step
    assert step is not None
    return sorted({abs(v) for v in step.levels if v != 0})


def _layer_differences(
    view: Chain, index: int, epsilons: Sequence[float], grads: list[Params]
) -> None:
    layer = view.layers[index]
    link = layer.link
    weight_moves, bias_moves = link.weight in grads[0], link.bias in grads[0]
    if not (weight_moves or bias_moves):
        return
    sizes = _magnitudes(view, index)
    if link.step is None:
        _last_layer(view, sizes, epsilons, grads)
        return
    widest = layer.inputs.abs().amax(1, keepdim=True)
    if bias_moves:
        widest = widest.clamp(min=1.0)
    levels = link.step.levels
    for t, low, high in zip(link.step.thresholds, levels[:-1], levels[1:], strict=True):
        gap = layer.pre - t
        near = gap.abs() <= max(epsilons) * widest
        gain = view.effect(index, low, high, near)
        if bias_moves:
            for grad, window in zip(grads, _windows(gap, epsilons), strict=True):
                grad[str(link.bias)] += (gain * window).sum(0)
        if not weight_moves:
            continue
        if sizes is None:
            sums = _real(layer.inputs, gap, gain, near, epsilons)
            for grad, total in zip(grads, sums, strict=True):
                grad[link.weight] += total
            continue
        for size in sizes:
            inputs = layer.inputs.sign() * (layer.inputs.abs() == size)
            for grad, window in zip(
                grads, _windows(gap, [e * size for e in epsilons]), strict=True
            ):
                grad[link.weight] += (gain * window).T @ inputs


def _last_layer(
    view: Chain, sizes: list[float] | None, epsilons: Sequence[float], grads: list[Params]
) -> None:
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

    def moved(shift: float) -> Tensor:  # (rows, out): loss change as one output moves by +-shift
        out = torch.empty_like(y)
        for i in range(y.shape[1]):
            up, down = y.clone(), y.clone()
            up[:, i] += shift
            down[:, i] -= shift
            out[:, i] = view.criterion(up, view.targets) - view.criterion(down, view.targets)
        return out

    for grad, epsilon in zip(grads, epsilons, strict=True):
        if link.bias in grad:
            grad[str(link.bias)] += moved(epsilon).sum(0)
        if link.weight in grad:
            assert sizes is not None  # `obstacle` refuses a single layer under such a loss
            for size in sizes:
                inputs = layer.inputs.sign() * (layer.inputs.abs() == size)
                grad[link.weight] += moved(epsilon * size).T @ inputs
