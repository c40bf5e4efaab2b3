"""Exact coordinate differences of a chain, and its loss along single coordinates."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sa.flips import chain, dense, maps
from sa.network.structure import Link
from sa.params import ranges
from sa.types import Batch, Params


class Profile(NamedTuple):
    """The loss as a function of a shift of one coordinate: a piecewise constant function.

    Args:
        name: the tensor of the coordinate.
        at: the index of the coordinate in this tensor.
        shifts: (c,), ascending, where the loss jumps. The loss at shift 0 includes the jumps at
            shifts <= 0.
        losses: (c + 1,); losses[k] is the loss between shifts[k - 1] and shifts[k].
        evals: cost in forward-equivalents since the last profile of the series.

    """

    name: str
    at: tuple[int, ...]
    shifts: Tensor
    losses: Tensor
    evals: float


def differences(
    links: Sequence[Link],
    params: Params,
    moving: Sequence[str],
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    epsilons: Sequence[float],
    rows: int,
    room: int = chain.SUFFIX,
) -> tuple[list[Params], float, dict[str, str]]:
    """Return the central differences [f(w + eps e_i) - f(w - eps e_i)] / (2 eps) of a chain.

    They are exact up to rounding. In float64 the error is about 1e-12 of the loss, divided by eps.
    In float32 a unit that is closer to its threshold than rounding may flip, so compare float32
    results by their norm and not entry by entry.

    Args:
        links: the chain.
        params: every parameter and running statistic of the chain, by name.
        moving: names of the parameters to differentiate.
        batch: the rows.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        epsilons: the steps, above 0.
        rows: the most rows to hold at once.
        room: how many numbers one piece of work may hold.

    Returns:
        One gradient for each eps; the cost in forward-equivalents; name of a layer's weights ->
        the method used: ``flips``, ``patterns``, ``counting`` or ``output``.

    """
    n = batch.rows
    grads = [{k: torch.zeros_like(params[k]) for k in moving} for _ in epsilons]
    work, paths = 0.0, {}
    for start, stop in ranges(n, rows):
        view = chain.run(links, params, batch.part(start, stop), criterion, quadratic, room)
        for index, link in enumerate(links):
            if not _names(link) & set(moving):
                continue
            if link.step is None:
                dense.last(view, epsilons, grads)
                paths[link.weight] = "output"
            elif link.padding is None:
                dense.hidden(view, index, epsilons, grads)
                paths[link.weight] = "flips"
            else:
                paths[link.weight] = maps.convolution(view, index, epsilons, grads)
        # one forward, matrix products that cost about a backward, and the rows that run again
        work += 3 * (stop - start) / n + view.suffix_rows / n
    for grad, epsilon in zip(grads, epsilons, strict=True):
        for g in grad.values():
            g /= 2 * epsilon * n
    return grads, work, paths


def profiles(
    links: Sequence[Link],
    params: Params,
    moving: Sequence[str],
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    reach: float,
    rows: int,
) -> Iterator[Profile]:
    """Yield the profile of every coordinate of the fully connected layers that a step follows.

    All coordinates of a unit share its flip effects, which are computed once for each layer.

    Args:
        links: the chain.
        params: every parameter and running statistic of the chain, by name.
        moving: names of the parameters that move.
        batch: the rows.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        reach: the largest shift, in both directions.
        rows: the most rows to hold at once.

    """
    n = batch.rows
    for index, link in enumerate(links):
        names = [k for k in moving if k in _names(link)]
        if not names or link.step is None or link.padding is not None:
            continue
        layers, found, total, work = [], [], 0.0, 0.0
        for start, stop in ranges(n, rows):
            view = chain.run(links, params, batch.part(start, stop), criterion, quadratic)
            layer = view.layers[index]
            layers.append(layer)
            found.append(dense.jumps(view, index, reach * _widest(layer, params, names)))
            total += float(view.losses.sum())
            work += (stop - start + view.suffix_rows) / n
        gaps, gains = (torch.cat(parts) for parts in zip(*found, strict=True))
        for name in names:
            speeds = [_speeds(x, params, name) for x in layers]
            for at in itertools.product(*map(range, params[name].shape)):
                speed = torch.cat([s(*at) for s in speeds])
                met = dense.crossings(gaps[:, at[0]], gains[:, at[0]], speed, reach)
                yield Profile(name, at, *_along(*met, total, n), work)
                work = 0.0


def _speeds(layer: chain.ChainLayer, params: Params, name: str) -> Callable[..., Tensor]:
    """Return a function of a coordinate's index: the derivatives (rows,) of its unit by it.

    The index is (unit, input) for weights, and (unit) for other parameters.
    """
    if name != layer.link.weight:
        own = layer.speeds(params, {name: params[name]})[name].expand_as(layer.pre)
        return lambda i: own[:, i]
    x, scale = layer.inputs, layer.scale
    return lambda i, j: x[:, j] if scale is None else x[:, j] * scale[i]


def _widest(layer: chain.ChainLayer, params: Params, names: Sequence[str]) -> Tensor:
    """Return the largest |derivative|, (rows, out), of a unit by any of its own coordinates."""
    speeds = list(layer.speeds(params, {k: params[k] for k in names}).values())
    if layer.link.weight in names:
        x = layer.inputs.abs().amax(1, keepdim=True)
        speeds.append(x if layer.scale is None else x * layer.scale)
    fastest = torch.zeros_like(layer.pre)
    for speed in speeds:
        fastest = torch.maximum(fastest, speed.abs())
    return fastest


def _along(
    where: Tensor, by: Tensor, happened: Tensor, total: float, rows: int
) -> tuple[Tensor, Tensor]:
    """Return the shifts (c,), sorted, and the mean losses (c + 1,) between them.

    Args:
        where: (c,), the shifts, unsorted.
        by: (c,), the jumps of the sum of losses.
        happened: (c,), whether the jump is at or below shift 0.
        total: the sum of losses at shift 0.
        rows: number of rows.

    """
    first = total - by[happened].sum()  # the loss below every crossing
    where, order = where.sort()
    return where, torch.cat([first.view(1), first + by[order].cumsum(0)]) / rows


def _names(link: Link) -> set[str]:
    """Return the names of a link's parameters."""
    norm = [f"{link.norm.name}.{k}" for k in ("weight", "bias")] if link.norm else []
    return {link.weight, *norm} | ({link.bias} if link.bias else set())
