"""Scores of a point: loss, accuracy and more of both splits, in evaluation mode."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sa.objective.criterion import CRITERIA
from sa.objective.divergence import best_constant
from sa.objective.forward import Forward
from sa.objective.total import total
from sa.params import blocks
from sa.types import Numbers, Params, Splits

PART = 4096
"""The most rows that are evaluated together outside of a step."""

SPLITS = ("train", "test")

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(eq=False)
class Evaluation:
    """What a network gives whole, in evaluation mode.

    Args:
        forward: the network; of replicas every row of the data is of all networks.
        data: the rows of both splits.
        classes: how many classes the targets are of; 0 where they are numbers.
        spoilt: returns which training labels were corrupted, bool (rows,), of replicas
            (rows, networks); None if the dataset corrupts none. Called once.
        ends: (params, buffers) where other trainings of this network ended.
        kept: reads the points that the training kept on its way to the one that is looked at.

    """

    forward: Forward
    data: Splits
    classes: int = 0
    spoilt: Callable[[], Tensor | None] = lambda: None
    ends: Sequence[tuple[Params, Params]] = ()
    kept: Callable[[], Sequence[Params]] = tuple

    @cached_property
    def _wrong(self) -> Tensor | None:
        """Which training rows have a wrong label (rows, networks); None if none has."""
        spoilt = self.spoilt()
        return spoilt.view(len(spoilt), -1) if spoilt is not None and spoilt.any() else None

    def path(self) -> Sequence[Params]:
        """Return the points that the training kept on its way to this one; may be none."""
        return self.kept()

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Return what the network puts out for inputs (n, ...): (n, outputs)."""
        return self.forward.run(params, inputs, "eval")

    @torch.no_grad()
    def evaluate(
        self, params: Params, buffers: Params | None = None, splits: Sequence[str] = SPLITS
    ) -> Numbers:
        """Return loss, and accuracy for classes, of splits: ``train/loss``, ``test/loss``, ...

        Where labels are corrupted also ``train/fitted``, the share of the wrong ones that the
        network gives; of gates ``keep``, the share of channels they keep, mean and by layer. Of
        replicas each is the mean, with its percentiles and all numbers beside it.

        Args:
            params: the point.
            buffers: running statistics instead of the network's own.
            splits: train, test or both.

        """
        out: Numbers = {}
        forward, point = self.forward, params | (buffers or {})
        most = max(1, min(PART, forward.numerics.memory // (8 * forward.width)))
        for split in splits:
            inputs = self.data[SPLITS.index(split)].inputs
            parts = (inputs[a:b] for a, b in blocks(len(inputs), most))
            out |= self.scores(split, (forward.run(point, x, "eval") for x in parts))
        kept = {
            k.removesuffix(".quantize.alpha"): float(v) for k, v in forward.keeps(point).items()
        }
        if kept:
            out |= {f"keep/{k}": v for k, v in kept.items()}
            out["keep"] = sum(kept.values()) / len(kept)
        return out

    def scores(self, split: str, outputs: Iterable[Tensor]) -> Numbers:
        """Return the scores of a split from its outputs, part by part, in the order of its rows."""
        batch, start = self.data[SPLITS.index(split)], 0
        losses, hits = [], []
        for part in outputs:
            rows = batch.part(start, start + len(part))
            losses.append(self._each(part, rows.targets))
            if self.classes:
                hot = self.forward.kind == "mse"
                truth = rows.targets.argmax(-1) if hot else rows.targets
                hits.append((chosen(part, -1) == truth).double().view(len(part), -1))
            start += len(part)
        out = self._spread(f"{split}/loss", total(torch.cat(losses).T) / batch.rows)
        if hits:
            right = torch.cat(hits)
            out |= self._spread(f"{split}/accuracy", total(right.T) / batch.rows)
            if split == "train" and self._wrong is not None:
                fitted = total((right * self._wrong).T) / self._wrong.sum(0)
                out |= self._spread(f"{split}/fitted", fitted)
        return out

    def _each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Row losses (n, networks), float64."""
        losses = self.forward.row_losses(outputs, targets)
        return losses.double().view(len(outputs), -1)

    def _spread(self, name: str, each: Tensor) -> Numbers:
        """Return one network's number, or the mean, percentiles and all numbers of replicas."""
        if self.forward.replicas is None:
            return {name: float(each[0])}
        low, middle, high = each.quantile(each.new_tensor([0.05, 0.5, 0.95])).tolist()
        return {
            name: float(each.mean()),
            f"{name}/low": low,
            f"{name}/median": middle,
            f"{name}/high": high,
            f"{name}/each": each.tolist(),
        }

    def constant(self) -> Tensor | None:
        """Return the loss (networks,) of each network's best constant output on its training rows.

        None where the output is the loss itself.
        """
        kind, targets = self.forward.kind, self.data.train.targets
        if kind == "value":
            return None
        each = [targets] if self.forward.replicas is None else targets.unbind(1)
        found = [best_constant(CRITERIA[kind], mine) for mine in each]
        return torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def redundant(self, params: Params) -> list[str]:
        """Return biases that batch normalisation takes away again: moving them moves no output.

        Found by moving each, one after another, under the statistics of a few rows; empty where
        there is no BatchNorm.
        """
        if not self.forward.norms:
            return []
        found: list[str] = []
        inputs = self.data.train.inputs[:64]
        before = self.forward.run(params, inputs, "batch")
        for name in [k for k in params if k.endswith("bias")]:
            by = torch.linspace(0.5, 1.5, params[name].shape[-1]).to(before)
            after = self.forward.run(params | {name: params[name] + by}, inputs, "batch")
            apart, scale = float((after - before).abs().max()), float(before.abs().max())
            if apart <= 1e4 * torch.finfo(before.dtype).eps * scale:
                found.append(name)
        return found

    @torch.no_grad()
    def recalibrate(self, params: Params, buffers: Params | None = None) -> Params:
        """Return the buffers with BatchNorm's statistics at params: their mean over training rows.

        In equal parts of at most PART rows, each normalised by itself; the network's own stay.

        Args:
            params: the point.
            buffers: what else is kept there, as quantizers' ranges; None for the network's own.

        """
        forward, norms = self.forward, self.forward.norms
        fresh = {k: b.clone() for k, b in (forward.buffers | (buffers or {})).items()}
        momenta = [m.momentum for m in norms.values()]
        for name in norms:
            for kind in _RUNNING:
                fresh[f"{name}.{kind}"].fill_(kind == "running_var")
        try:
            if norms:
                inputs = self.data.train.inputs
                for i, part in enumerate(inputs.tensor_split(math.ceil(len(inputs) / PART)), 1):
                    for m in norms.values():
                        m.momentum = 1 / i  # the plain mean of what it has seen
                    forward.run(params | fresh, part, "track")
        finally:
            for m, momentum in zip(norms.values(), momenta, strict=True):
                m.momentum = momentum
        return fresh


def chosen(outputs: Tensor, dim: int) -> Tensor:
    """Return the class of the largest output along ``dim``, -1 where an output is no number.

    The first of several equal ones. ``argmax`` alone takes NaN for the largest.
    """
    return outputs.argmax(dim).masked_fill_(outputs.isnan().any(dim), -1)
