"""Exact differences and loss profiles of a whole chain, along its coordinates."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sa.flips import chain, dense, maps
from sa.network.structure import Link
from sa.params import blocks
from sa.types import Batch, Params


class Profile(NamedTuple):
    """The loss as params[name][at] moves by a shift: a piecewise constant.

    shifts (c,), ascending: where it jumps; losses (c + 1,): losses[k] between shifts[k - 1] and
    shifts[k]. Jumps at or below 0 have happened at shift 0. evals: forward-equivalents spent since
    the last profile of a series.
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
    """Central differences (loss(w + eps e) - loss(w - eps e)) / (2 eps), for every eps.

    params: every parameter and running statistic of the chain; moving: the names wanted; rows: how
    many rows to hold at once; room: how many numbers one piece of work on them may hold. Returns a
    gradient an eps, the forward-equivalents spent, and which way each layer took: ``flips``,
    ``patterns``, ``counting`` or ``output``. Exact up to rounding, which float64 keeps near 1e-12
    of the loss over eps; in float32 a unit closer to its threshold than rounding may flip, so
    compare float32 results by norm, not entry by entry.
    """
    n = batch.rows
    grads = [{k: torch.zeros_like(params[k]) for k in moving} for _ in epsilons]
    work, paths = 0.0, {}
    for start, stop in blocks(n, rows):
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
        # a forward, about a backward's worth of matrix products, and the suffixes
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
    """The profile of every coordinate of the fully connected step layers: see Objective.profiles.

    One unit's jumps serve all its coordinates, so they are found once a layer.
    """
    n = batch.rows
    for index, link in enumerate(links):
        names = [k for k in moving if k in _names(link)]
        if not names or link.step is None or link.padding is not None:
            continue
        layers, found, total, work = [], [], 0.0, 0.0
        for start, stop in blocks(n, rows):
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


def _speeds(layer: chain.Layer, params: Params, name: str) -> Callable[..., Tensor]:
    """(unit, input) of a weight, (unit) of another name -> its speeds (rows,) with that number."""
    if name != layer.link.weight:
        own = layer.speeds(params, {name: params[name]})[name].expand_as(layer.pre)
        return lambda i: own[:, i]
    x, scale = layer.inputs, layer.scale
    return lambda i, j: x[:, j] if scale is None else x[:, j] * scale[i]


def _widest(layer: chain.Layer, params: Params, names: Sequence[str]) -> Tensor:
    """The fastest each unit moves in each row (rows, out) with any of its own numbers."""
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
    """Sorted shifts and the losses between them, from crossings and the sum of losses at 0."""
    first = total - by[happened].sum()  # the loss left of every crossing
    where, order = where.sort()
    return where, torch.cat([first.view(1), first + by[order].cumsum(0)]) / rows


def _names(link: Link) -> set[str]:
    """The parameters of a link."""
    norm = [f"{link.norm.name}.{k}" for k in ("weight", "bias")] if link.norm else []
    return {link.weight, *norm} | ({link.bias} if link.bias else set())
