"""Runs rows through a chain of affine maps and steps, and runs them again from a changed unit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.network import codes
from sa.network.structure import Link, Step
from sa.params import ranges
from sa.types import Batch, Params

SUFFIX = 1 << 17
"""The most pre-activations of one layer that are computed at once: they fit a core's cache."""


def stepped(z: Tensor, step: Step) -> Tensor:
    """Return the step of z, elementwise. At a threshold it is the level above; NaN stays NaN."""
    out = z.clamp(step.levels[0], step.levels[0])
    for t, low, high in zip(step.thresholds, step.levels[:-1], step.levels[1:], strict=True):
        out.add_((z >= t).to(z.dtype), alpha=high - low)
    return out


def step_(z: Tensor, step: Step) -> Tensor:
    """Return the step of z, and overwrite z if the step has two levels."""
    if len(step.levels) > 2:
        return stepped(z, step)
    (t,), (low, high) = step.thresholds, step.levels
    base = z.clamp(low, low) if bool(z.sum().isnan()) else z.new_full((), low)
    return torch.add(base, z.ge_(t), alpha=high - low, out=z)  # NaN stays NaN


def why_no_fast_differences(links: Sequence[Link]) -> str | None:
    """Return why a chain has no fast differences, in words; None if it has."""
    for link in links[:-1]:
        if link.step is None:
            return f"no step function follows layer '{link.weight}'"
    if links[-1].step is not None:
        return "the last layer's output goes through a step function"
    if links[-1].padding is not None or links[-1].norm is not None:
        return f"the last layer '{links[-1].weight}' is not a plain fully connected one"
    return None


@dataclass
class ChainLayer:
    """The numbers of one link of a chain, for some rows.

    Maps of a convolution are (rows, out, h, w). A fully connected link has outputs (rows, out).

    Args:
        link: the link.
        weight: its weights; their codes if there is a factor.
        factor: (out,), the scale of the codes; None if the weights are no codes.
        inputs: (rows, in) or (rows, in, H, W).
        sums: the products of inputs and codes; they are whole numbers if the inputs are. The same
            as raw if there is no factor.
        raw: the outputs of the affine map, before the norm.
        pre: the outputs of the norm, before the step; the same as raw without a norm.
        acts: the outputs of the step; the same as pre without a step.
        scale: (out,), what the norm multiplies raw by; None without a norm.

    """

    link: Link
    weight: Tensor
    factor: Tensor | None
    inputs: Tensor
    sums: Tensor
    raw: Tensor
    pre: Tensor
    acts: Tensor
    scale: Tensor | None

    def speeds(self, params: Params, moving: Params) -> Params:
        """Return d pre / d p for each parameter p that a unit has for itself, by name.

        These parameters are the bias and the weight and bias of the norm. A derivative broadcasts
        against pre.

        Args:
            params: every parameter and running statistic.
            moving: the parameters that move; others are left out.

        """
        link, out = self.link, {}
        shape = (-1,) + (1,) * (self.pre.dim() - 2)
        one = self.pre.new_ones(self.pre.shape[1]).view(shape)
        if link.bias in moving:
            out[str(link.bias)] = one if self.scale is None else self.scale.view(shape)
        if link.norm is not None and f"{link.norm.name}.weight" in moving:
            mean, rate = (v.view(shape) for v in _statistics(link, params))
            out[f"{link.norm.name}.weight"] = (self.raw - mean) * rate
        if link.norm is not None and f"{link.norm.name}.bias" in moving:
            out[f"{link.norm.name}.bias"] = one
        return out


Tail = Callable[[Tensor, Tensor], Tensor]
"""(outputs of the last link, (n,) the rows they belong to) -> outputs of the network."""


@dataclass
class Chain:
    """Some rows that were run through a chain, with the numbers of every layer.

    Args:
        links: the chain.
        params: every parameter and running statistic, by name.
        layers: the numbers of each link.
        targets: the targets of the rows.
        losses: (rows,).
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        room: how many numbers one piece of work may hold.
        tail: the rest of the network, if the chain is a part of one; else None.
        factors: scales (out,) of the weights that are codes, by name.
        suffix_rows: counts the rows that were run again from a changed layer.

    """

    links: Sequence[Link]
    params: Params
    layers: list[ChainLayer]
    targets: Tensor
    losses: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor]
    quadratic: bool
    room: int
    tail: Tail | None = None
    factors: Params = field(default_factory=dict)
    suffix_rows: int = 0

    def rest(self, index: int, acts: Tensor) -> Tensor:
        """Return the outputs (n, outputs) of the chain from the inputs of layer ``index``."""
        for link in self.links[index:]:
            acts = _through(link, self.params, acts, self.factors.get(link.weight))[-1]
            if link.step:
                acts = step_(acts, link.step)
        return acts

    def pieces(self, index: int, count: int) -> Iterator[tuple[int, int]]:
        """Return ranges (start, stop) of ``count`` rows to run again, and add them to the cost.

        The widest layer from ``index`` on fits the room in each range.
        """
        widest = max(layer.pre[0].numel() for layer in self.layers[index:])
        self.suffix_rows += count
        return ranges(count, max(1, min(self.room // 4, SUFFIX) // widest))

    def suffix(self, index: int, rows: Tensor, units: Tensor, level: float) -> Tensor:
        """Return the losses of rows after one unit of each changed its state.

        Args:
            index: a fully connected layer.
            rows: (c,), the rows.
            units: (c,), the unit that changes in each row.
            level: its new state.

        Returns:
            (c,).

        """
        out = torch.empty(len(rows), dtype=self.losses.dtype, device=self.losses.device)
        layer, after = self.layers[index], self.layers[index + 1]
        columns = after.weight.T.contiguous()
        if after.scale is not None:
            columns *= after.scale
        for start, stop in self.pieces(index + 1, len(rows)):
            r, u = rows[start:stop], units[start:stop]
            change = level - layer.acts[r, u]
            z = columns[u].mul_(change[:, None]).add_(after.pre[r])
            out[start:stop] = self._losses(index + 1, z, r)
        return out

    def maps(self, index: int, rows: Tensor, units: Tensor, at: Tensor, change: Tensor) -> Tensor:
        """Return the losses of rows after one map of each changed its states.

        Args:
            index: a convolution.
            rows: (c,), the rows.
            units: (c,), the map that changes in each row.
            at: (c, m), positions in the flattened map.
            change: (c, m), what is added to the states at these positions.

        Returns:
            (c,).

        """
        out = torch.empty(len(rows), dtype=self.losses.dtype, device=self.losses.device)
        layer, after = self.layers[index], self.layers[index + 1]
        size = layer.acts[0, 0].numel()
        link, w = after.link, after.weight
        for start, stop in self.pieces(index + 1, len(rows)):
            r, u, p, d = (v[start:stop] for v in (rows, units, at, change))
            if link.step_size is not None:
                d = (d / link.step_size).round()
            if link.average:
                z = (d.sum(1) / size)[:, None] * w.T[u]
            elif link.padding is None:
                z = torch.einsum("cm,cmo->co", d, w.T.view(-1, size, len(w))[u[:, None], p])
            else:
                blank = d.new_zeros(len(r), size).scatter_(1, p, d)
                patches = F.unfold(
                    blank.view(-1, 1, *layer.acts.shape[2:]), w.shape[2:], padding=link.padding,
                    stride=link.stride,
                )  # fmt: skip
                z = w.transpose(0, 1).flatten(2)[u] @ patches
                z = z.view(len(r), len(w), *_mapped(link, w, after.inputs))
                if after.factor is not None:
                    sums = z.add_(after.sums[r])
                    pre = _finished(link, self.params, sums, after.factor)[-1]
                    out[start:stop] = self._losses(index + 1, pre, r)
                    continue
                if link.pool > 1:
                    z = F.avg_pool2d(z, link.pool)
            if after.scale is not None:
                z *= after.scale.view((-1,) + (1,) * (z.dim() - 2))
            out[start:stop] = self._losses(index + 1, z.add_(after.pre[r]), r)
        return out

    def _losses(self, index: int, pre: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of rows from a layer's pre-activations, which are overwritten."""
        step = self.links[index].step
        outputs = self.rest(index + 1, step_(pre, step) if step else pre)
        if self.tail is not None:
            outputs = self.tail(outputs, rows)
        return self.criterion(outputs, self.targets[rows])


def run(
    links: Sequence[Link],
    params: Params,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    quadratic: bool,
    room: int = SUFFIX,
    tail: Tail | None = None,
    factors: Params | None = None,
) -> Chain:
    """Run rows through a chain and return the numbers of every layer.

    Args:
        links: the chain.
        params: every parameter and running statistic, by name.
        batch: the rows.
        criterion: (outputs, targets) -> row losses.
        quadratic: whether the criterion is the squared error averaged over outputs.
        room: how many numbers one later piece of work may hold.
        tail: the rest of the network, if the chain is a part of one.
        factors: scales (out,) of the weights that are codes, by name.

    """
    factors = factors or {}
    layers: list[ChainLayer] = []
    acts = batch.inputs
    for link in links:
        factor = factors.get(link.weight)
        x, sums, raw, pre = _through(link, params, acts, factor)
        acts = stepped(pre, link.step) if link.step else pre
        scale = None
        if link.norm is not None:
            scale = params[f"{link.norm.name}.weight"] * _statistics(link, params)[1]
        weight = params[link.weight]
        layers.append(ChainLayer(link, weight, factor, x, sums, raw, pre, acts, scale))
    outputs = tail(acts, torch.arange(batch.rows, device=acts.device)) if tail else acts
    losses = criterion(outputs, batch.targets)
    return Chain(
        links, params, layers, batch.targets, losses, criterion, quadratic, room, tail, factors
    )


def _mapped(link: Link, weight: Tensor, x: Tensor) -> list[int]:
    """Return height and width of the outputs of a convolution."""
    side = 2 * (link.padding or 0) - weight.shape[-1]
    return [(n + side) // link.stride + 1 for n in x.shape[2:]]


def _through(
    link: Link, params: Params, x: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (inputs, sums, raw, pre) of a link, as in `ChainLayer`, from the last link's acts."""
    weight, bias = params[link.weight], params[link.bias] if link.bias else None
    if factor is not None:
        x = x if link.step_size is None else codes.counts(x, link.step_size)
        sums = F.conv2d(x, weight, None, link.stride, link.padding or 0)
        return x, sums, *_finished(link, params, sums, factor)
    if link.padding is None:
        x = x.mean((2, 3)) if link.average else x.flatten(1)
        z = F.linear(x, weight, bias)
    else:
        z = F.conv2d(x, weight, bias, link.stride, link.padding)
        if link.pool > 1:
            z = F.avg_pool2d(z, link.pool)
    return x, z, z, _normed(link, params, z)


def _finished(link: Link, params: Params, sums: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return (raw, pre) of a convolution of codes, as in `ChainLayer`, from its sums."""
    z = sums * factor.view(-1, 1, 1)
    if link.bias:
        z += params[link.bias].view(-1, 1, 1)
    return z, _normed(link, params, z)


def _normed(link: Link, params: Params, z: Tensor) -> Tensor:
    """Return z after the norm of the link; z itself without a norm."""
    if link.norm is None:
        return z
    mean, var, gain, shift = (
        params[f"{link.norm.name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(z, mean, var, gain, shift, False, 0.0, link.norm.eps)


def affine(link: Link, params: Params) -> tuple[Tensor, Tensor]:
    """Return gain and shift, (out,) each, of a link's norm: it maps z to z gain + shift."""
    assert link.norm is not None
    mean, rate = _statistics(link, params)
    gain = params[f"{link.norm.name}.weight"] * rate
    return gain, params[f"{link.norm.name}.bias"] - mean * gain


def _statistics(link: Link, params: Params) -> tuple[Tensor, Tensor]:
    """Return the mean and 1/sqrt(variance + eps), (out,) each, of a norm's running statistics."""
    assert link.norm is not None
    mean, var = params[f"{link.norm.name}.running_mean"], params[f"{link.norm.name}.running_var"]
    return mean, (var + link.norm.eps).rsqrt()
