"""Reads a network of any making: as a chain, or as cuts, each verified on example rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sa.flips import chain
from sa.network import traced_chain, traced_cuts
from sa.network.structure import Cut, Link
from sa.network.trace import Trace, Unreadable, called, check, trace
from sa.params import stream
from sa.types import Batch, Params

TOLERANCE = 1e-9
"""The largest relative difference between a reading and the network, which both compute."""


@dataclass(frozen=True)
class Reading:
    """What a network was read as.

    Args:
        links: the network as a chain; empty if it is none.
        cuts: the network cut open at a weight, by the weight's name.
        why: why it is no chain, in plain words; None if it is one.
        whys: why a parameter has no cut, by its name.

    """

    links: Sequence[Link] = ()
    cuts: dict[str, Cut] = field(default_factory=dict)
    why: str | None = None
    whys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Example:
    """Rows, a point (every parameter and buffer), and what the network gives."""

    rows: Tensor
    params: Params
    outputs: Tensor


@torch.no_grad()
def read(network: nn.Module, rows: Tensor, moving: Sequence[str]) -> Reading:
    """Return the network as a chain; if it is none, cut open at the weights that move.

    A reading is used only if it gives what the network gives, at the point and around it. So what
    cannot be traced, as an operation on ``.data``, leads to brute force and never to wrong numbers.

    Everything is computed in float64, on copies of the parameters and buffers.

    Args:
        network: in evaluation mode; BatchNorm is read with its running statistics.
        rows: a few inputs, (rows, ...). More of them make the verification stricter.
        moving: the names of the parameters that move.

    """
    rows = _double(rows)
    try:
        check(network)
        examples = [_example(network, rows, point) for point in _points(network)]
        traced = trace(network, rows, examples[0].params)
    except Unreadable as error:
        return Reading(why=str(error))
    try:
        links = traced_chain.links(traced)
        for example in examples:
            _verify(example, partial(_chained, links))
        return Reading(links)
    except Unreadable as error:
        why = str(error)
    cuts, whys = {}, {}
    for name in moving:
        try:
            cuts[name] = _cut(traced, name, examples)
        except Unreadable as error:
            whys[name] = str(error)
    return Reading((), cuts, why, whys)


def _cut(traced: Trace, name: str, examples: Sequence[_Example]) -> Cut:
    """The network cut at a weight; raises Unreadable if it cannot be, or if brute force costs less.

    The rest is also verified on some of the rows, in another order.
    """
    cut, price = traced_cuts.cut(traced, name)
    brute = 2 * traced.params[name].numel()
    if price >= brute:
        raise Unreadable(
            f"a cut at '{name}' takes about {price:,.0f} forwards, brute force {brute}"
        )
    for example in examples:
        n = len(example.rows)
        for at in (torch.arange(n), torch.tensor([n - 1, 0, 0])):
            what = f"the operations behind '{name}' fail on some rows"
            _verify(example, partial(_cut_open, cut, at.to(example.rows.device)), at, what)
    return cut


def _cut_open(cut: Cut, at: Tensor, example: _Example) -> Tensor:
    """The outputs of some rows of a network that is cut open."""
    params = {k: v.clone() for k, v in example.params.items()}
    x, kept = cut.before(params, example.rows.clone())
    merged = params | {k: w for k, (w, _) in cut.kernels(params).items()}
    view = chain.run(cut.links, merged, Batch(x, x), lambda outputs, _: outputs, False)
    assert cut.rest is not None
    return cut.rest(params, view.losses[at], kept, at)


def _points(network: nn.Module) -> list[Params]:
    """The network's point, and another one around it, where no parameter is 0 or shared."""
    generator = stream(0, "reading")
    point = {k: _double(p) for k, p in network.named_parameters()}
    buffers = {k: _double(b) for k, b in network.named_buffers()}
    around = {}
    for name, p in point.items():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        around[name] = p + 0.3 * (p.square().mean().sqrt() if p.any() else 1.0) * noise
    return [point | buffers, around | buffers]


def _double(x: Tensor) -> Tensor:
    """A copy, of floating-point numbers in float64."""
    x = x.detach().clone()
    return x.double() if x.is_floating_point() else x


def _example(network: nn.Module, rows: Tensor, params: Params) -> _Example:
    """What the network gives; raises Unreadable if it fails or gives something else each time."""

    def run(x: Tensor) -> Tensor:
        copies = {k: v.clone() for k, v in params.items()}
        return functional_call(network, copies, (x.clone(),))

    what = "the forward fails on example rows"
    outputs, again = (called(what, lambda: run(rows)) for _ in range(2))
    if not isinstance(outputs, Tensor):
        raise Unreadable(f"the network returns a {type(outputs).__name__}, not one tensor")
    if _apart(again, outputs) > 0:
        raise Unreadable("the forward gives other outputs each time for the same rows")
    half = (len(rows) + 1) // 2
    some = called("the forward fails on fewer rows", lambda: run(rows[:half]))
    if not _apart(some, outputs[:half]) <= TOLERANCE:
        raise Unreadable("the output of a row depends on the other rows of the batch")
    return _Example(rows, params, outputs)


def _verify(
    example: _Example,
    run: Callable[[_Example], Tensor],
    at: Tensor | None = None,
    what: str = "its reading fails on example rows",
) -> None:
    """Raise Unreadable if a reading gives something else than the network, of the rows ``at``."""
    found = called(what, lambda: run(example))
    apart = _apart(found, example.outputs if at is None else example.outputs[at])
    if not apart <= TOLERANCE:
        raise Unreadable(
            f"the outputs of the traced operations differ from the network's by {apart:.2g} on "
            "example rows: the forward does something that cannot be traced"
        )


def _chained(links: Sequence[Link], example: _Example) -> Tensor:
    """The outputs of a chain."""
    batch = Batch(example.rows, example.rows.new_zeros(len(example.rows)))
    view = chain.run(links, example.params, batch, lambda outputs, _: outputs, False)
    return view.losses


def _apart(found: Tensor, outputs: Tensor) -> float:
    """The largest difference, relative to the largest output; infinite for another shape."""
    if found.shape != outputs.shape:
        return float("inf")
    same = (found == outputs) | (found.isnan() & outputs.isnan())
    if bool(same.all()):
        return 0.0
    scale = outputs[outputs.isfinite()].abs().amax() if outputs.isfinite().any() else 1.0
    apart = torch.where(same, 0.0, (found - outputs).abs() / scale)
    return float(apart.nan_to_num(nan=float("inf")).amax())
