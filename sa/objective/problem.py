"""A task made concrete: the loss on rows, in training and in evaluation, and what it keeps."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from sa import surrogate
from sa.network import codes
from sa.network.read import coupling, describe, latent_weights
from sa.network.structure import Layer, Structure
from sa.objective.criterion import CRITERIA
from sa.objective.divergence import best_constant
from sa.objective.objective import Objective
from sa.objective.task import Task
from sa.objective.total import total
from sa.params import blocks, stream
from sa.types import Batch, Forget, Numbers, Params, Partial, Splits

PART = 4096
"""The most rows that are evaluated together outside of a step."""

SPLITS = ("train", "test")

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class Problem:
    """A task made concrete: the network, its data, and the point where the study starts.

    replicas: of how many networks every tensor is a stack (`sa.training.replicas`); None of one.
    ends: (params, buffers) where other trainings of this network ended, for analyses of both. kept:
    reads the points that the training kept on its way to the one that is looked at.
    """

    task: Task
    network: nn.Module
    kind: str
    data: Splits
    params: Params
    frozen: Params
    structure: Structure
    norms: list[_BatchNorm]
    width: int
    seed: int
    partial: Partial = field(default_factory=Forget)
    replicas: int | None = None
    ends: Sequence[tuple[Params, Params]] = ()
    kept: Callable[[], Sequence[Params]] | None = None

    @property
    def classes(self) -> int:
        """How many classes the targets are of; 0 where they are numbers."""
        return self.task.dataset.classes or 0

    def path(self) -> Sequence[Params]:
        """The points that the training kept on its way to this one; none where it kept none."""
        return self.kept() if self.kept else ()

    @property
    def buffers(self) -> Params:
        """What the network keeps beside parameters (running statistics), by name."""
        return dict(self.network.named_buffers())

    def batch(self, step: int) -> Batch:
        """The rows of one step: a fresh permutation every epoch, from the seed and step alone."""
        train, n = self.data.train, self.data.train.rows
        rows = self.task.batch_size
        if rows is None or rows >= n:
            return train
        epoch, at = divmod(step, n // rows)
        return self._picked(self._order(epoch)[at * rows : (at + 1) * rows])

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.data.train.rows, generator=stream(self.seed, "batches", epoch))

    def _picked(self, index: Tensor) -> Batch:
        train = self.data.train
        index = index.to(train.inputs.device)
        return Batch(train.inputs[index], train.targets[index])

    def objective(self, batch: Batch) -> Objective:
        """The loss on a batch; its held-out twin is the loss on the test split.

        Of all rows, where training and evaluation are the same forward, it keeps what the network
        puts out when a gradient is computed.
        """
        mine = self._objective(batch)
        mine.heldout = self._objective(self.data.test)
        if batch is not self.data.train:
            mine.whole = self._objective(self.data.train)
        return mine

    def _objective(self, batch: Batch) -> Objective:
        task = self.task
        call = _compiled() if task.compile else functional_call
        kind = task.device.partition(":")[0]
        products = torch.autocast(kind, torch.bfloat16) if task.autocast else nullcontext()

        def outputs(params: Params, part: Batch) -> Tensor:
            with products:
                out = self._forward(params, part.inputs, "train", call)
            return out.to(part.inputs.dtype)

        def rows(params: Params, part: Batch) -> Tensor:
            return self._losses(outputs(params, part), part.targets) + self._owed(params)

        return Objective(
            rows,
            batch,
            structure=self.structure,
            width=self.width,
            memory=self.task.memory,
            progress=self.task.progress,
            partial=self.partial,
            states=self._states,
            opened=lambda params: self._opened(params, batch),
            outputs=outputs if batch is self.data.train and self._steady else None,
            network=self,
            trace=self._trace,
            coupled=bool(coupling(self.network, self.task.batchnorm)[0]),
            double=None
            if self.task.dtype == "float64"
            else lambda: self._double()._objective(batch.to(torch.float64)),
        )

    def _opened(self, params: Params, batch: Batch) -> tuple[Objective, Params]:
        """The loss without quantizers before weights, and the quantized weights of a point.

        Scales of those weights still come after products, so that at the point it is the loss.
        """
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.frozen | params, strict=False)
        layers: Iterator[Any] = network.modules()
        for m in layers:
            if getattr(m, "slot", None) == "weight" and getattr(m, "quantize", None):
                with torch.no_grad():
                    terms = surrogate.weights(partial(codes.of, m.quantize), m.weight)
                    m.weight.copy_(codes.decoded(terms))
                scale = terms[0].scale if len(terms) == 1 else None
                del m.quantize
                m.quantize = None if scale is None else codes.Rescaled(scale)
        named = {k: p.detach() for k, p in network.named_parameters()}
        frozen = {k: p for k, p in named.items() if k not in params}
        mine = replace(
            self,
            network=network,
            params={k: named[k] for k in params if k in named},
            frozen=frozen,
            structure=describe(network, frozen, self.kind, self.task.batchnorm),
            norms=[m for m in network.modules() if isinstance(m, _BatchNorm)],
        )
        return mine.objective(batch), mine.params

    @property
    def _steady(self) -> bool:
        """Whether outputs are the same in training and in evaluation."""
        norms = self.norms and self.task.batchnorm == "batch"
        differ = any(hasattr(m, "observing") for m in self.network.modules())
        other = self.structure.stochastic or self.gates or self.replicas or self.task.autocast
        return not (norms or differ or other)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return CRITERIA[self.kind](outputs, targets)

    @cached_property
    def gates(self) -> dict[str, Any]:
        """Gates on channels, by the name of their parameter."""
        return {
            f"{name}.quantize.alpha": m.quantize.spec
            for name, m in self.network.named_modules()
            if hasattr(getattr(getattr(m, "quantize", None), "spec", None), "keep")
        }

    def _keeps(self, params: Params) -> dict[str, Tensor]:
        """The share of channels that each layer's gates keep, by its parameter."""
        every = self.frozen | params
        return {name: spec.keep(every[name]) for name, spec in self.gates.items()}

    def _owed(self, params: Params) -> Tensor | float:
        """What is owed beside the loss: channels that are kept beyond a budget."""
        if not self.gates:
            return 0.0
        spec = next(iter(self.gates.values()))
        return spec.owed(torch.cat(list(self._keeps(params).values())))

    def _double(self) -> "Problem":
        """The same problem in float64, for differences of nearly equal losses."""
        network = copy.deepcopy(self.network).double()
        frozen = {k: p.double() for k, p in self.frozen.items()}
        structure = replace(self.structure, frozen=frozen, statistics=dict(network.named_buffers()))
        return replace(
            self,
            task=replace(self.task, dtype="float64", autocast=None, compile=False),
            network=network,
            frozen=frozen,
            structure=structure,
            norms=[m for m in network.modules() if isinstance(m, _BatchNorm)],
        )

    def _forward(
        self,
        params: Params,
        inputs: Tensor,
        use: str,
        call: Callable[..., Tensor] = functional_call,
    ) -> Tensor:
        """Outputs, for ``train`` (a loss that is studied), ``eval`` or ``track`` (updates).

        call: torch's ``functional_call``, or what it was compiled to.
        """
        norms = {"train": self.task.batchnorm, "eval": "running"}.get(use, use)
        with statistics(self.norms, norms), _settings(self.network, use == "train"):
            return call(self.network, self.frozen | params, (inputs,))

    def _states(self, params: Params, batch: Batch) -> list[Tensor]:
        """What every activation quantizer puts out, in the order of the forward."""
        found: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda module, args, out: found.append(out))
            for m in self.network.modules()
            if hasattr(m, "quantize") and not hasattr(m, "weight")
        ]
        try:
            self._forward(params, batch.inputs, self.task.batchnorm)
        finally:
            for h in hooks:
                h.remove()
        return found

    def _trace(self, params: Params, batch: Batch) -> list[Layer]:
        """What every layer with parameters or a quantizer does, in the order of the forward.

        One row has no statistics of its own: BatchNorm takes the running ones.
        """
        found: list[Layer] = []

        def look(name: str):
            def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
                q, w = getattr(module, "quantize", None), getattr(module, "weight", None)
                weight = w if isinstance(w, Tensor) and w.dim() > 1 else None
                count = sum(p.numel() for p in module.parameters(hasattr(module, "slot")))
                q = None if getattr(q, "identity", False) else q
                used = q(weight) if q and weight is not None else weight
                found.append(Layer(name, args[0], out, q, weight, used, count))

            return hook

        named = dict(self.network.named_modules())
        hooks = [
            m.register_forward_hook(look(k))
            for k, m in named.items()
            if hasattr(m, "slot") or any(True for _ in m.parameters(recurse=False))
            if not (
                k and hasattr(named[k.rpartition(".")[0]], "slot")
            )  # a quantizer is its layer's
        ]
        norms = "running" if batch.rows == 1 else self.task.batchnorm
        try:
            with statistics(self.norms, norms), _settings(self.network, True):
                functional_call(self.network, self.frozen | params, (batch.inputs,))
        finally:
            for h in hooks:
                h.remove()
        return found

    @property
    def latent(self) -> list[str]:
        """The weights that a quantizer stands before, by name."""
        return latent_weights(self.network)

    @cached_property
    def spoilt(self) -> Tensor | None:
        """Which training rows have a label that is not their own (rows,); None where none can.

        Of replicas (rows, replicas).
        """
        data: Any = self.task.dataset
        kind = (
            "random" if getattr(data, "random_labels", False) else getattr(data, "corruption", "")
        )
        if kind not in ("random", "partial", "shuffled"):
            return None
        clean = replace(data, corruption="none", random_labels=False)
        own = clean.load(stream(self.seed, "data")).train.targets.to(self.data.train.targets.device)
        given = self.data.train.targets
        labels = given.argmax(-1) if self.kind == "mse" else given
        return own.view(-1, *[1] * (labels.dim() - 1)) != labels

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """What the network puts out for inputs (n, ...) in evaluation mode."""
        return self._forward(params, inputs, "eval")

    @torch.no_grad()
    def evaluate(
        self, params: Params, buffers: Params | None = None, splits: Sequence[str] = SPLITS
    ) -> Numbers:
        """Loss, and accuracy for classes, of splits in evaluation mode.

        Where labels are corrupted also ``train/fitted``, the share of the wrong ones that the
        network gives; of gates ``keep``, the share of channels they keep, mean and by layer.
        buffers: running statistics instead of the network's own.
        """
        out: Numbers = {}
        point = params | (buffers or {})
        most = max(1, min(PART, self.task.memory // (8 * self.width)))
        for split in splits:
            inputs = self.data[SPLITS.index(split)].inputs
            parts = (inputs[a:b] for a, b in blocks(len(inputs), most))
            out |= self.scores(split, (self._forward(point, x, "eval") for x in parts))
        kept = {k.removesuffix(".quantize.alpha"): float(v) for k, v in self._keeps(params).items()}
        if kept:
            out |= {f"keep/{k}": v for k, v in kept.items()}
            out["keep"] = sum(kept.values()) / len(kept)
        return out

    def scores(self, split: str, outputs: Iterable[Tensor]) -> Numbers:
        """Loss, for classes accuracy, and ``fitted``, from a split's outputs, part by part."""
        batch, start = self.data[SPLITS.index(split)], 0
        spoilt = self.spoilt if split == "train" else None
        losses = []
        hits = fitted = 0.0
        for part in outputs:
            rows = batch.part(start, start + len(part))
            losses.append(self._losses(part, rows.targets).double())
            if self.task.dataset.classes:
                truth = rows.targets.argmax(1) if self.kind == "mse" else rows.targets
                right = chosen(part, 1) == truth
                hits += float(right.sum())
                if spoilt is not None:
                    fitted += float(right[spoilt[start : start + len(part)]].sum())
            start += len(part)
        out: Numbers = {f"{split}/loss": float(total(torch.cat(losses))) / batch.rows}
        if self.task.dataset.classes:
            out[f"{split}/accuracy"] = hits / batch.rows
        if spoilt is not None and spoilt.any():
            out[f"{split}/fitted"] = fitted / float(spoilt.sum())
        return out

    @torch.no_grad()
    def track(self, params: Params, batch: Batch) -> None:
        """Let running statistics and ranges see a batch: one forward, only if there are any.

        Of the whole batch whatever ``memory`` is: its statistics are no sums over parts.
        """
        with observing(self.network) as observers:
            if self.norms or observers:
                self._forward(params, batch.inputs, "track")

    def losses(self, params: Params, batch: Batch, total: Tensor) -> Tensor:
        """Loss of each network (networks,), float64, of a batch at a point; total: their sum."""
        return total.reshape(1)

    def constant(self) -> Tensor | None:
        """Loss (networks,) of the best constant output on the training rows.

        None where the output is the loss itself.
        """
        if self.kind == "value":
            return None
        targets = self.data.train.targets
        return torch.tensor([best_constant(CRITERIA[self.kind], targets)], dtype=torch.float64)

    def asleep(self) -> list[str]:
        """Quantizers that are the identity for now, having seen only zeros, by layer."""
        named = self.network.named_modules()
        return [k.removesuffix(".quantize") for k, m in named if getattr(m, "asleep", False)]

    @torch.no_grad()
    def observe(self) -> None:
        """Let what starts from data (ranges, step sizes) see the first batch, once."""
        with observing(self.network) as observers:
            if observers:
                self._forward(self.params, self.batch(0).inputs, "train")

    def own(self) -> dict[str, dict[str, float]]:
        """What quantizers say of their own parameters' optimizer group, by parameter."""
        return {
            f"{name}.{k}": module.group
            for name, module in self.network.named_modules()
            if isinstance(getattr(module, "group", None), dict)
            for k, _ in module.named_parameters(recurse=False)
        }

    def groups(self, params: Params) -> list[Tensor] | list[dict[str, Any]]:
        """The parameters as an optimizer takes them: quantizers' own in groups of their own."""
        own = self.own()
        groups: dict[str, dict[str, Any]] = {"rest": {"params": []}}
        for name, p in params.items():
            settings = own.get(name)
            key = "rest" if settings is None else repr(settings)
            groups.setdefault(key, {"params": [], **(settings or {})})["params"].append(p)
        if len(groups) == 1:
            return list(params.values())
        return [g for g in groups.values() if g["params"]]

    @torch.no_grad()
    def redundant(self) -> list[str]:
        """Biases that batch normalisation takes away again: moving them moves no output.

        Found by moving each, one after another, under the statistics of a few rows; empty where
        there is no BatchNorm.
        """
        found: list[str] = []
        inputs = self.data.train.inputs[:64]
        every = self.frozen | self.params
        before = self._forward(every, inputs, "batch") if self.norms else inputs
        for name in [k for k in self.params if k.endswith("bias")] if self.norms else []:
            by = torch.linspace(0.5, 1.5, len(every[name])).to(before)
            after = self._forward(every | {name: every[name] + by}, inputs, "batch")
            apart, scale = float((after - before).abs().max()), float(before.abs().max())
            if apart <= 1e4 * torch.finfo(before.dtype).eps * scale:
                found.append(name)
        return found

    @torch.no_grad()
    def recalibrate(self, params: Params, buffers: Params | None = None) -> Params:
        """The buffers with BatchNorm's statistics at params: their mean over the training rows.

        In equal parts of at most PART rows, each normalised by itself; the network's own stay.
        buffers: what else is kept there, as quantizers' ranges; None for the network's own.
        """
        fresh = {k: b.clone() for k, b in (self.buffers | (buffers or {})).items()}
        momenta = [m.momentum for m in self.norms]
        for name, m in self.network.named_modules():
            for kind in _RUNNING if isinstance(m, _BatchNorm) else ():
                fresh[f"{name}.{kind}"].fill_(kind == "running_var")
        try:
            if self.norms:
                inputs = self.data.train.inputs
                for i, part in enumerate(inputs.tensor_split(math.ceil(len(inputs) / PART)), 1):
                    for m in self.norms:
                        m.momentum = 1 / i  # the plain mean of what it has seen
                    self._forward(params | fresh, part, "track")
        finally:
            for m, momentum in zip(self.norms, momenta, strict=True):
                m.momentum = momentum
        return fresh

    @torch.no_grad()
    def first_bad(self, params: Params, batch: Batch) -> str:
        """The first parameter or layer output that is not finite, by name."""
        for name, p in params.items():
            if not p.isfinite().all():
                return name
        found: list[str] = []

        def hook(name: str):
            def look(module: nn.Module, args: object, output: Tensor) -> None:
                if not output.isfinite().all():
                    found.append(name)

            return look

        hooks = [m.register_forward_hook(hook(k)) for k, m in self.network.named_modules() if k]
        self._forward(params, batch.inputs, "train")
        for h in hooks:
            h.remove()
        return found[0] if found else "the gradient"


def chosen(outputs: Tensor, dim: int) -> Tensor:
    """Return the class of the largest output along ``dim``, -1 where an output is no number.

    The first of several equal ones. ``argmax`` alone takes NaN for the largest.
    """
    return outputs.argmax(dim).masked_fill_(outputs.isnan().any(dim), -1)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    """``functional_call``, compiled for each network and shape when it comes."""
    return torch.compile(functional_call)


@contextmanager
def _settings(network: nn.Module, train: bool) -> Iterator[None]:
    """Quantizers of layers use their settings of training, or those of evaluation."""
    mine = [m for m in network.modules() if hasattr(m, "observing")]
    for m in mine:
        m.training = train
    try:
        yield
    finally:
        for m in mine:
            m.training = False


@contextmanager
def observing(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Quantizers of layers that keep something from data do so; yields them."""
    mine = [m for m in network.modules() if getattr(m, "observes", False)]
    for m in mine:
        setattr(m, "observing", True)  # noqa: B010
    try:
        yield mine
    finally:
        for m in mine:
            setattr(m, "observing", False)  # noqa: B010


@contextmanager
def statistics(norms: list[_BatchNorm], use: str) -> Iterator[None]:
    """BatchNorm uses the batch's statistics (``batch``, ``track``) or the ``running`` ones.

    Only ``track`` updates the running ones: in a probe their update would be a side effect, and
    under vmap it is impossible.
    """
    for m in norms:
        m.training = use != "running"
        m.track_running_stats = use != "batch"
    try:
        yield
    finally:
        for m in norms:
            m.training, m.track_running_stats = False, True
