"""Reads any network as a chain, or as cuts, and verifies the result on example rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sa.flips import chain
from sa.network import traced_chain, traced_cuts
from sa.network.structure import Cut, Link
from sa.network.trace import Trace, Unreadable, attempt, check, trace
from sa.params import stream
from sa.types import Batch, Params

TOLERANCE = 1e-9
"""The largest relative difference between the outputs of a reading and those of the network."""


@dataclass(frozen=True)
class Reading:
    """The result of reading a network.

    Args:
        links: the network as a chain; () if it is none.
        cuts: name of a weight -> the network cut open at it.
        why: why the network is no chain, in plain words; None if it is one.
        whys: name of a parameter -> why there is no cut at it.

    """

    links: Sequence[Link] = ()
    cuts: dict[str, Cut] = field(default_factory=dict)
    why: str | None = None
    whys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Example:
    """The outputs of the network on some rows, at a point.

    Args:
        rows: the inputs.
        params: every parameter and buffer, by name.
        outputs: the outputs of the network.

    """

    rows: Tensor
    params: Params
    outputs: Tensor


@torch.no_grad()
def read(network: nn.Module, rows: Tensor, moving: Sequence[str]) -> Reading:
    """Return the network as a chain; if it is none, cut open at the weights that move.

    A reading counts only if its outputs equal those of the network, at its point and at another
    one. So an operation that cannot be traced, for example on ``.data``, makes the differences slow
    but never wrong. Everything is computed in float64, on copies of the parameters and buffers.

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
    """Return the network cut open at a weight, after verifying it on every example.

    The part after the cut is also verified on some of the rows, in another order.

    Raises:
        Unreadable: the network cannot be cut there, or brute force costs less.

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
    """Return the outputs of the rows ``at`` of an example, computed by the cut."""
    params = {k: v.clone() for k, v in example.params.items()}
    x, kept = cut.before(params, example.rows.clone())
    merged = params | {k: w for k, (w, _) in cut.kernels(params).items()}
    view = chain.run(cut.links, merged, Batch(x, x), lambda outputs, _: outputs, False)
    assert cut.rest is not None
    return cut.rest(params, view.losses[at], kept, at)


def _points(network: nn.Module) -> list[Params]:
    """Return the network's point, and a random one near it, where no two parameters are equal."""
    generator = stream(0, "reading")
    point = {k: _double(p) for k, p in network.named_parameters()}
    buffers = {k: _double(b) for k, b in network.named_buffers()}
    around = {}
    for name, p in point.items():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        around[name] = p + 0.3 * (p.square().mean().sqrt() if p.any() else 1.0) * noise
    return [point | buffers, around | buffers]


def _double(x: Tensor) -> Tensor:
    """Return a copy, in float64 if it holds floating-point numbers."""
    x = x.detach().clone()
    return x.double() if x.is_floating_point() else x


def _example(network: nn.Module, rows: Tensor, params: Params) -> _Example:
    """Return the outputs of the network on some rows, at a point.

    Raises:
        Unreadable: the forward fails, returns no single tensor, gives other outputs each time, or
            couples the rows.

    """

    def run(x: Tensor) -> Tensor:
        copies = {k: v.clone() for k, v in params.items()}
        return functional_call(network, copies, (x.clone(),))

    what = "the forward fails on example rows"
    outputs, again = (attempt(what, lambda: run(rows)) for _ in range(2))
    if not isinstance(outputs, Tensor):
        raise Unreadable(f"the network returns a {type(outputs).__name__}, not one tensor")
    if _difference(again, outputs) > 0:
        raise Unreadable("the forward gives other outputs each time for the same rows")
    half = (len(rows) + 1) // 2
    some = attempt("the forward fails on fewer rows", lambda: run(rows[:half]))
    if not _difference(some, outputs[:half]) <= TOLERANCE:
        raise Unreadable("the output of a row depends on the other rows of the batch")
    return _Example(rows, params, outputs)


def _verify(
    example: _Example,
    run: Callable[[_Example], Tensor],
    at: Tensor | None = None,
    what: str = "its reading fails on example rows",
) -> None:
    """Raise Unreadable if a reading and the network give different outputs.

    Args:
        example: the outputs of the network.
        run: computes the outputs of the reading.
        at: the rows to compare; None for all.
        what: words for a reading that fails.

    """
    found = attempt(what, lambda: run(example))
    apart = _difference(found, example.outputs if at is None else example.outputs[at])
    if not apart <= TOLERANCE:
        raise Unreadable(
            f"the outputs of the traced operations differ from the network's by {apart:.2g} on "
            "example rows: the forward does something that cannot be traced"
        )


def _chained(links: Sequence[Link], example: _Example) -> Tensor:
    """Return the outputs of an example, computed by the chain."""
    batch = Batch(example.rows, example.rows.new_zeros(len(example.rows)))
    view = chain.run(links, example.params, batch, lambda outputs, _: outputs, False)
    return view.losses


def _difference(found: Tensor, outputs: Tensor) -> float:
    """Return the largest difference relative to the largest output; inf if the shapes differ."""
    if found.shape != outputs.shape:
        return float("inf")
    same = (found == outputs) | (found.isnan() & outputs.isnan())
    if bool(same.all()):
        return 0.0
    scale = outputs[outputs.isfinite()].abs().amax() if outputs.isfinite().any() else 1.0
    apart = torch.where(same, 0.0, (found - outputs).abs() / scale)
    return float(apart.nan_to_num(nan=float("inf")).amax())
