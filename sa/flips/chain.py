"""A block of rows run through a chain of affine maps and steps, and re-run from a changed unit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.network import codes
from sa.network.structure import Link, Step
from sa.params import blocks
from sa.types import Batch, Params

SUFFIX = 1 << 17  # numbers of one layer's pre-activations evaluated together: a core's cache


def stepped(z: Tensor, step: Step) -> Tensor:
    """Apply the step elementwise; a threshold itself belongs to the level above, NaN stays NaN."""
    out = z.clamp(step.levels[0], step.levels[0])
    for t, low, high in zip(step.thresholds, step.levels[:-1], step.levels[1:], strict=True):
        out.add_((z >= t).to(z.dtype), alpha=high - low)
    return out


def step_(z: Tensor, step: Step) -> Tensor:
    """The same in place where there are two levels; use the returned tensor."""
    if len(step.levels) > 2:
        return stepped(z, step)
    (t,), (low, high) = step.thresholds, step.levels
    base = z.clamp(low, low) if bool(z.sum().isnan()) else z.new_full((), low)
    return torch.add(base, z.ge_(t), alpha=high - low, out=z)  # NaN stays NaN


def obstacle(links: Sequence[Link]) -> str | None:
    """Why a chain has no fast differences, or None if it has."""
    for link in links[:-1]:
        if link.step is None:
            return f"no step function follows layer '{link.weight}'"
    if links[-1].step is not None:
        return "the last layer's output goes through a step function"
    if links[-1].padding is not None or links[-1].norm is not None:
        return f"the last layer '{links[-1].weight}' is not a plain fully connected one"
    return None


@dataclass
class Layer:
    """One link on a block of rows: what goes in, comes out, and how it is stepped.

    Fully connected: inputs (rows, in), pre and acts (rows, out). Convolution: inputs (rows, in, H,
    W), pre and acts (rows, out, h, w). raw: before the norm. scale: (out,), what the norm
    multiplies raw by, None without one. acts equals pre on the last layer.

    factor: what products with the weights, which are codes then, are multiplied by (out,); None
    without such a scale. sums: those products, whole numbers where the inputs are; raw without one.
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
        """By name, how fast each pre-activation moves with its unit's own numbers that move.

        These are the bias and the norm's two; a speed broadcasts against pre.
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


@dataclass
class Chain:
    """A block of rows run through a chain; ``room`` is how many numbers one piece of work may hold.

    tail: (what leaves the last link, rows) -> outputs, where the chain is a part of a network.
    factors: by name, the scales of weights that are codes. suffix_rows counts the rows re-run from
    a changed layer on.
    """

    links: Sequence[Link]
    params: Params
    layers: list[Layer]
    targets: Tensor
    losses: Tensor  # (rows,)
    criterion: Callable[[Tensor, Tensor], Tensor]
    quadratic: bool
    room: int
    tail: Tail | None = None
    factors: Params = field(default_factory=dict)
    suffix_rows: int = 0

    def rest(self, index: int, acts: Tensor) -> Tensor:
        """Outputs (n, outputs) of the layers from ``index`` on, given what goes into them."""
        for link in self.links[index:]:
            acts = _through(link, self.params, acts, self.factors.get(link.weight))[-1]
            if link.step:
                acts = step_(acts, link.step)
        return acts

    def pieces(self, index: int, count: int) -> Iterator[tuple[int, int]]:
        """Blocks of re-run rows whose widest layer from ``index`` on fits the room."""
        widest = max(layer.pre[0].numel() for layer in self.layers[index:])
        self.suffix_rows += count
        return blocks(count, max(1, min(self.room // 4, SUFFIX) // widest))

    def suffix(self, index: int, rows: Tensor, units: Tensor, level: float) -> Tensor:
        """Losses (c,) of the given rows, one unit each of a fully connected layer at a level."""
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
        """Losses (c,) of the given rows with one map each of a convolution changed.

        at (c, m): positions in the flattened map; change (c, m): what is added to the states there.
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
        """Losses of the rows given a layer's pre-activations, which are used up."""
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
    """Run a block of rows through the links and keep every layer's view.

    factors: by name, the scales (out,) of links whose weights are codes.
    """
    factors = factors or {}
    layers: list[Layer] = []
    acts = batch.inputs
    for link in links:
        factor = factors.get(link.weight)
        x, sums, raw, pre = _through(link, params, acts, factor)
        acts = stepped(pre, link.step) if link.step else pre
        scale = None
        if link.norm is not None:
            scale = params[f"{link.norm.name}.weight"] * _statistics(link, params)[1]
        layers.append(Layer(link, params[link.weight], factor, x, sums, raw, pre, acts, scale))
    outputs = tail(acts, torch.arange(batch.rows, device=acts.device)) if tail else acts
    losses = criterion(outputs, batch.targets)
    return Chain(
        links, params, layers, batch.targets, losses, criterion, quadratic, room, tail, factors
    )


def _mapped(link: Link, weight: Tensor, x: Tensor) -> list[int]:
    """Height and width of the maps that leave a convolution."""
    side = 2 * (link.padding or 0) - weight.shape[-1]
    return [(n + side) // link.stride + 1 for n in x.shape[2:]]


def _through(
    link: Link, params: Params, x: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What enters the affine map, its products, what leaves it, and the same after the norm."""
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
    """What leaves a convolution of codes, given its products, and the same after the norm."""
    z = sums * factor.view(-1, 1, 1)
    if link.bias:
        z += params[link.bias].view(-1, 1, 1)
    return z, _normed(link, params, z)


def _normed(link: Link, params: Params, z: Tensor) -> Tensor:
    """Z after the link's norm, if it has one."""
    if link.norm is None:
        return z
    mean, var, gain, shift = (
        params[f"{link.norm.name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(z, mean, var, gain, shift, False, 0.0, link.norm.eps)


def affine(link: Link, params: Params) -> tuple[Tensor, Tensor]:
    """What a link's norm multiplies by and what it adds then, (out,) each."""
    assert link.norm is not None
    mean, rate = _statistics(link, params)
    gain = params[f"{link.norm.name}.weight"] * rate
    return gain, params[f"{link.norm.name}.bias"] - mean * gain


def _statistics(link: Link, params: Params) -> tuple[Tensor, Tensor]:
    """The running mean and 1/sqrt(running variance + eps) of a link's norm, (out,) each."""
    assert link.norm is not None
    mean, var = params[f"{link.norm.name}.running_mean"], params[f"{link.norm.name}.running_var"]
    return mean, (var + link.norm.eps).rsqrt()
