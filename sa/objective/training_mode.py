"""Layers that work differently in training mode, found by running the network on a few rows."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sa.network.network import Network
from sa.network.places import check_uses
from sa.objective.forward import NetworkForward, key
from sa.objective.modes import watched
from sa.types import Params


@torch.no_grad()
def in_mode(forward: NetworkForward, point: Params, rows: Tensor) -> NetworkForward:
    """Return the forward in the mode that its numerics name, after looking at a few rows.

    A network whose layers all do the same in both modes stays as it is, and keeps the fast path of
    exact differences. BatchNorm and quantizers have modes of their own and do not count.

    Args:
        forward: forward of a network in evaluation mode.
        point: the parameters that move.
        rows: a few inputs.

    Raises:
        ValueError: a layer draws random numbers in evaluation mode, or draws numbers that torch
            does not know of, so that two points cannot share them; or a quantizer is never used,
            or keeps one range for several places.

    """
    if isinstance(forward.network, Network):  # its layers have no training mode
        return forward
    check_uses(forward.network, rows)
    if drawn := _first_apart(forward, forward, point, rows, "eval"):
        raise ValueError(
            f"network: {drawn} gives other outputs each time in evaluation mode; let it draw in "
            "training mode alone (self.training), and set mode='train'"
        )
    if forward.numerics.mode == "eval":
        return forward
    trained = replace(forward, training=True, draws=key(0, 0))
    if drawn := _first_apart(trained, trained, point, rows, "batch"):
        raise ValueError(
            f"network: {drawn} draws random numbers that torch does not know of, so the two points "
            "of a difference cannot share them; draw them with torch, or set mode='eval'"
        )
    other = _first_apart(forward, trained, point, rows, "batch")
    if not other:
        return forward
    why = f"{other} works differently in training mode; set mode=eval for exact differences"
    structure = replace(forward.structure, links=(), cuts=(), why_not_a_chain=why)
    return replace(trained, structure=structure)


def _first_apart(
    a: NetworkForward, b: NetworkForward, point: Params, rows: Tensor, use: str
) -> str:
    """Return the first layer whose outputs differ between two forwards, in words; '' if none."""
    first, second = (_outputs(f, point, rows, use) for f in (a, b))
    if _same(first[-1][1], second[-1][1]):
        return ""
    layers = dict(a.network.named_modules())
    for (name, mine), (_, its) in zip(first, second, strict=False):
        if name and not list(layers[name].children()) and not _same(mine, its):
            return f"layer '{name}' ({type(layers[name]).__name__})"
    return "the network's own forward"


def _outputs(
    forward: NetworkForward, point: Params, rows: Tensor, use: str
) -> list[tuple[str, list[Tensor]]]:
    """Return (layer, its outputs) in the order of the forward; the network itself comes last."""
    found: list[tuple[str, list[Tensor]]] = []

    def look(name: str, layer: nn.Module, inputs: Any, out: Any) -> None:
        found.append((name, [x.clone() for x in tree_leaves(out) if isinstance(x, Tensor)]))

    with watched(dict(forward.network.named_modules()), look):
        forward.run(point, rows, use)
    return found


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True)
    )
