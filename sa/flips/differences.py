"""Exact differences of a whole chain: along every coordinate, and the profile along one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sa.flips import chain, dense, maps
from sa.types import Batch, Link, Params, blocks


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


def profile(
    links: Sequence[Link],
    params: Params,
    name: str,
    at: tuple[int, ...],
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    reach: float,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """The loss along one coordinate of a fully connected layer, exactly: see Objective.profile."""
    index = next(i for i, link in enumerate(links) if name in _names(link))
    link = links[index]
    if link.step is None or link.padding is not None:
        what = "the outputs" if link.step is None else "a convolution"
        raise ValueError(
            f"'{name}' belongs to {what}; a profile needs a fully connected step layer"
        )
    found, total = [], 0.0
    for start, stop in blocks(batch.rows, rows):
        view = chain.run(links, params, batch.part(start, stop), criterion, quadratic)
        layer = view.layers[index]
        total += float(view.losses.sum())
        if name == link.weight:
            speed = layer.inputs[:, at[1]]
            if layer.scale is not None:
                speed = speed * layer.scale[at[0]]
        else:
            like = {name: params[name]}
            speed = layer.speeds(params, like)[name].expand_as(layer.pre)[:, at[0]]
        found.append(dense.profile(view, index, at[0], speed, reach))
    where, by, happened = (torch.cat(parts) for parts in zip(*found, strict=True))
    first = total - by[happened].sum()  # the loss left of every crossing, from the one at shift 0
    where, order = where.sort()
    losses = torch.cat([first.view(1), first + by[order].cumsum(0)]) / batch.rows
    return where, losses


def _names(link: Link) -> set[str]:
    """The parameters of a link."""
    norm = [f"{link.norm.name}.{k}" for k in ("weight", "bias")] if link.norm else []
    return {link.weight, *norm} | ({link.bias} if link.bias else set())
