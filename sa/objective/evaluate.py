"""Evaluation: loss, accuracy and other scores on the training and the test split."""

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
from sa.params import ranges
from sa.types import Numbers, Params, Splits

PART = 4096
"""The largest number of rows in one forward of an evaluation."""

SPLITS = ("train", "test")

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(eq=False)
class Evaluation:
    """The scores of a network on both splits, in evaluation mode.

    Args:
        forward: the network, or several networks (replicas). Every network of replicas is
            evaluated on all rows.
        data: the rows of both splits.
        classes: number of classes; 0 if the targets are numbers.
        spoilt: returns True for each training label that the dataset corrupted: bool (rows,), or
            (rows, networks) for replicas; None if the dataset corrupts no labels. Called once.
        ends: (params, buffers) at the end of other trainings of this network.
        kept: reads the points that the training saved before the point that is evaluated.

    """

    forward: Forward
    data: Splits
    classes: int = 0
    spoilt: Callable[[], Tensor | None] = lambda: None
    ends: Sequence[tuple[Params, Params]] = ()
    kept: Callable[[], Sequence[Params]] = tuple

    @cached_property
    def _wrong_labels(self) -> Tensor | None:
        """True for each training row with a wrong label, (rows, networks); None if none has."""
        spoilt = self.spoilt()
        return spoilt.view(len(spoilt), -1) if spoilt is not None and spoilt.any() else None

    def path(self) -> Sequence[Params]:
        """Return the points that the training saved before this one; it may have saved none."""
        return self.kept()

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Return the outputs of the network, (n, outputs), for inputs (n, ...)."""
        return self.forward.run(params, inputs, "eval")

    @torch.no_grad()
    def evaluate(
        self, params: Params, buffers: Params | None = None, splits: Sequence[str] = SPLITS
    ) -> Numbers:
        """Return the scores of each split, by name: ``train/loss``, ``test/accuracy``, ...

        - ``loss``: always.
        - ``accuracy``: if the targets are classes.
        - ``train/fitted``: if labels are corrupted, the share of the wrong labels that the network
          predicts.
        - ``keep``: if the network has gates, the share of channels that they keep: the mean, and
          ``keep/LAYER`` for each layer.

        For replicas each score is the mean; its percentiles and the score of each network follow.

        Args:
            params: the point.
            buffers: running statistics to use instead of the network's own.
            splits: ``train``, ``test`` or both.

        """
        out: Numbers = {}
        forward, point = self.forward, params | (buffers or {})
        most = max(1, min(PART, forward.numerics.memory // (8 * forward.width)))
        for split in splits:
            inputs = self.data[SPLITS.index(split)].inputs
            parts = (inputs[a:b] for a, b in ranges(len(inputs), most))
            out |= self.scores(split, (forward.run(point, x, "eval") for x in parts))
        kept = {
            k.removesuffix(".quantize.alpha"): float(v) for k, v in forward.keeps(point).items()
        }
        if kept:
            out |= {f"keep/{k}": v for k, v in kept.items()}
            out["keep"] = sum(kept.values()) / len(kept)
        return out

    def scores(self, split: str, outputs: Iterable[Tensor]) -> Numbers:
        """Return the scores of a split.

        Args:
            split: ``train`` or ``test``.
            outputs: the network's outputs in parts, in the order of the rows.

        """
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
            wrong = self._wrong_labels if split == "train" else None
            if wrong is not None:
                fitted = total((right * wrong).T) / wrong.sum(0)
                out |= self._spread(f"{split}/fitted", fitted)
        return out

    def _each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the row losses, (n, networks) float64."""
        losses = self.forward.row_losses(outputs, targets)
        return losses.double().view(len(outputs), -1)

    def _spread(self, name: str, each: Tensor) -> Numbers:
        """Return a score by name; for replicas its mean, percentiles and each network's score."""
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
        """Return the loss of the best constant output on the training rows, for each network.

        The shape is (networks,). None if the network's output is the loss itself.
        """
        kind, targets = self.forward.kind, self.data.train.targets
        if kind == "value":
            return None
        each = [targets] if self.forward.replicas is None else targets.unbind(1)
        found = [best_constant(CRITERIA[kind], mine) for mine in each]
        return torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def redundant(self, params: Params) -> list[str]:
        """Return the names of biases that have no effect because BatchNorm subtracts them again.

        Each bias in turn is changed, and the outputs for a few rows, normalised with their own
        statistics, are compared. The list is empty if the network has no BatchNorm.
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
        """Return the buffers with BatchNorm's running statistics recomputed at a point.

        The statistics are means over equal parts of the training rows, each part of at most
        ``PART`` rows. The buffers of the network itself do not change.

        Args:
            params: the point.
            buffers: the other buffers at that point, for example quantizers' ranges; None takes
                those of the network.

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
                        m.momentum = 1 / i  # so that the statistics are the mean over the parts
                    forward.run(params | fresh, part, "track")
        finally:
            for m, momentum in zip(norms.values(), momenta, strict=True):
                m.momentum = momentum
        return fresh


def chosen(outputs: Tensor, dim: int) -> Tensor:
    """Return the index of the largest output along ``dim``, or -1 if one of the outputs is NaN.

    If several outputs are largest, the first one counts. (``argmax`` alone returns the NaN.)
    """
    return outputs.argmax(dim).masked_fill_(outputs.isnan().any(dim), -1)
