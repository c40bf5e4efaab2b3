"""Model x dataset x criterion -> the loss being studied, and which of its parameters move."""

import copy
import fnmatch
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass as plain
from dataclasses import field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from sa import surrogate
from sa.flips import chain
from sa.objective import CRITERIA, Objective
from sa.types import (
    STRICT,
    Batch,
    Cut,
    Dataset,
    Forget,
    Layer,
    Model,
    Numbers,
    Params,
    Partial,
    Splits,
    Structure,
    blocks,
    stream,
)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


PART = 4096
"""The most rows that are evaluated together outside of a step."""

SPLITS = ("train", "test")

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class Mismatch(ValueError):
    """Settings that are each right and do not go together; ``key`` says which to change."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, config=STRICT)
class Task:
    """What is studied.

    criterion: ``ce``, ``mse``, ``value`` (the output itself, of a model that is a loss) or ``auto``
    (value for such a model, ce for classes, else mse). moving: ``all``, or a list of name patterns
    (``fc1.*``) and 1-based numbers of quantized layers (negative from the end).
    batch_size: rows a step, None for the full batch. batchnorm: ``batch`` (statistics of the batch
    itself) or ``running`` (evaluation statistics); neither updates the running ones.
    memory: bytes one evaluation may use for intermediate results; a larger batch is summed over
    parts, to the same loss and gradient. progress: whether long work says how far it is.
    autocast: products of the loss that is back-propagated are taken in bfloat16, its weights and
    evaluations stay in dtype. compile: that loss goes through torch.compile.
    """

    model: Model
    dataset: Dataset
    criterion: Literal["auto", "mse", "ce", "value"] = "auto"
    moving: Literal["all"] | tuple[str | int, ...] = "all"
    batch_size: Annotated[int, Gt(0)] | None = None
    batchnorm: Literal["batch", "running"] = "batch"
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    memory: Annotated[int, Gt(0)] = 128 << 20
    progress: bool = False
    autocast: Literal["bfloat16"] | None = None
    compile: bool = False

    def check(self, here: bool = True) -> None:
        """Refuse what does not fit, before any work: raises Mismatch naming both sides.

        Raises MissingData where the dataset's files are not on this machine. here: whether the run
        will be on this machine, which then needs its device.
        """
        model, data = self.model, self.dataset
        if tuple(model.shape) != tuple(data.shape):
            raise Mismatch(
                "model",
                f"{type(model).__name__} takes inputs of shape {tuple(model.shape)}, "
                f"{type(data).__name__} yields {tuple(data.shape)}; {_fitting(model, data)}",
            )
        if data.classes and model.outputs < data.classes:
            raise Mismatch(
                "model",
                f"{type(model).__name__} has {model.outputs} outputs, {type(data).__name__} has "
                f"{data.classes} classes; give the model {data.classes} outputs",
            )
        width = getattr(data, "outputs", None)
        if width is not None and model.outputs != width:
            raise Mismatch(
                "model",
                f"{type(model).__name__} has {model.outputs} outputs, {type(data).__name__} has "
                f"{width} targets a row; set model.outputs={width}",
            )
        if self.batch_size is not None and self.batch_size > data.rows:
            raise Mismatch(
                "batch_size",
                f"{self.batch_size} rows a step, and {type(data).__name__} has {data.rows}; "
                "batch_size=null is all of them",
            )
        demanded = getattr(model, "criterion", None)
        if demanded != self._kind and "value" in (demanded, self.criterion):
            who = f"{type(model).__name__} is {'a loss itself' if demanded else 'none'}"
            raise Mismatch(
                "criterion",
                f"{self.criterion}: value is for models that are a loss themselves, and {who}; "
                "use criterion=auto",
            )
        if self.criterion == "ce" and not data.classes:
            raise Mismatch(
                "criterion", f"ce needs classes, {type(data).__name__} has none; use mse"
            )
        network, width = _sample(model)  # type: ignore[arg-type]
        _moving(self.moving, network, [k for k, _ in network.named_parameters()])
        self._enough(network, width)
        if here and self.device.startswith("cuda") and not torch.cuda.is_available():
            raise Mismatch("device", f"{self.device} is not available here; use device=cpu")
        if self.autocast and self.dtype == "float64":
            raise Mismatch("autocast", f"{self.autocast} products of float64; set dtype=float32")
        if here and self.compile and self.device == "cpu" and not _compiler():
            raise Mismatch("compile", "there is no C++ compiler here; compile=false")
        if hasattr(data, "check"):
            data.check()

    def _enough(self, network: nn.Module, width: int) -> None:
        """Refuse a memory budget too small for one point."""
        least, what, instead = 8 * 12 * width, "one row of this network", ""
        who, other = _coupling(network, self.batchnorm)
        if who:
            rows = min(self.batch_size or self.dataset.rows, self.dataset.rows)
            least, what = 8 * width * rows, f"the {rows} rows that {who} normalises together"
            instead = f" or more, a smaller batch_size, or {other}"
        if self.memory < least:
            raise Mismatch(
                "memory", f"{self.memory} bytes are too few for {what}; set memory={least}{instead}"
            )

    @property
    def _kind(self) -> str:
        if self.criterion != "auto":
            return self.criterion
        demanded: str | None = getattr(self.model, "criterion", None)
        return demanded or ("ce" if self.dataset.classes else "mse")

    def coupling(self) -> tuple[str, str]:
        """Who makes a row's loss depend on the other rows, '' if nobody, and what does not."""
        return _coupling(_sample(self.model)[0], self.batchnorm)  # type: ignore[arg-type]

    def latent(self) -> list[str]:
        """The weights that a quantizer stands before, by name."""
        return _latent(_sample(self.model)[0])  # type: ignore[arg-type]

    def point(self) -> Params:
        """What moves, at some start: for its names and shapes, before any data is loaded."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        named = {k: p.detach() for k, p in network.named_parameters()}
        return {k: named[k] for k in _moving(self.moving, network, list(named))}

    def keeps(self) -> bool:
        """Whether quantizers of the network keep anything from data, or learn."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        return any(hasattr(m, "observing") for m in network.modules())

    def structure(self) -> Structure:
        """The network's structure, before any data is loaded: what an estimator may require."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        named = {k: p.detach() for k, p in network.named_parameters()}
        moving = _moving(self.moving, network, list(named))
        frozen = {k: p for k, p in named.items() if k not in moving}
        return _structure(network, frozen, self._kind, self.batchnorm)

    def prepare(
        self, seed: int, data: Splits | None = None, init_seed: int | None = None
    ) -> "Problem":
        """Build the network and load the data, each from its own stream of the seed.

        data: what the dataset loads, where it has been loaded. init_seed: of the network's start
        alone, instead of the seed.
        """
        self.check()
        if self.compile:
            torch.compiler.reset()  # it compiles a function for so many networks, then no more
        dtype = DTYPES[self.dtype]
        data = data or self.dataset.load(stream(seed, "data"))
        start = seed if init_seed is None else init_seed
        network = self.model.build(stream(start, "init")).eval()
        kind = self._kind
        unlabelled = kind != "value" and data.train.targets.shape[1:] == (0,)
        if unlabelled:  # a second network sets the targets
            teacher = self.model.build(stream(seed, "target")).eval()
            with _observing(teacher):  # its quantizers start from the first inputs
                _outputs(teacher, data.train.inputs[: 1 << 16])
            data = Splits(*(Batch(b.inputs, _outputs(teacher, b.inputs)) for b in data))
        if kind == "mse" and self.dataset.classes:
            hot = [torch.eye(self.model.outputs, dtype=torch.float64)[b.targets] for b in data]
            data = Splits(*(Batch(b.inputs, h) for b, h in zip(data, hot, strict=True)))
        data = Splits(*(_place(b.to(dtype), self.device) for b in data))
        network = network.to(self.device, dtype)
        named = {k: p.detach() for k, p in network.named_parameters()}
        moving = _moving(self.moving, network, list(named))
        problem = Problem(
            task=self,
            network=network,
            kind=kind,
            data=data,
            params={k: named[k] for k in moving},
            frozen={k: p for k, p in named.items() if k not in moving},
            structure=_structure(
                network, {k: named[k] for k in named if k not in moving}, kind, self.batchnorm
            ),
            norms=[m for m in network.modules() if isinstance(m, _BatchNorm)],
            width=_width(network, data.train.inputs[:1]),
            seed=seed,
        )
        problem.observe()
        return problem


@plain
class Problem:
    """A task made concrete: the network, its data, and the point where the study starts.

    replicas: of how many networks every tensor is a stack (`sa.replicas`); None of one. ends:
    (params, buffers) where other trainings of this network ended, for analyses of both. kept:
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
            coupled=bool(_coupling(self.network, self.task.batchnorm)[0]),
            double=None
            if self.task.dtype == "float64"
            else lambda: self._double()._objective(batch.to(torch.float64)),
        )

    def _opened(self, params: Params, batch: Batch) -> tuple[Objective, Params]:
        """The loss without quantizers before weights, and the quantized weights of a point."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.frozen | params, strict=False)
        layers: Iterator[Any] = network.modules()
        for m in layers:
            if getattr(m, "slot", None) == "weight" and getattr(m, "quantize", None):
                with torch.no_grad():
                    m.weight.copy_(surrogate.weights(m.quantize, m.weight))
                m.quantize = None
        named = {k: p.detach() for k, p in network.named_parameters()}
        frozen = {k: p for k, p in named.items() if k not in params}
        mine = replace(
            self,
            network=network,
            params={k: named[k] for k in params if k in named},
            frozen=frozen,
            structure=_structure(network, frozen, self.kind, self.task.batchnorm),
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
        with _statistics(self.norms, norms), _settings(self.network, use == "train"):
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
            with _statistics(self.norms, norms), _settings(self.network, True):
                functional_call(self.network, self.frozen | params, (batch.inputs,))
        finally:
            for h in hooks:
                h.remove()
        return found

    @property
    def latent(self) -> list[str]:
        """The weights that a quantizer stands before, by name."""
        return _latent(self.network)

    @cached_property
    def spoilt(self) -> Tensor | None:
        """Which training rows have a label that is not their own (rows,); None where none can."""
        data: Any = self.task.dataset
        kind = (
            "random" if getattr(data, "random_labels", False) else getattr(data, "corruption", "")
        )
        if kind not in ("random", "partial", "shuffled"):
            return None
        clean = replace(data, corruption="none", random_labels=False)
        own = clean.load(stream(self.seed, "data")).train.targets.to(self.data.train.targets.device)
        given = self.data.train.targets
        return own != (given.argmax(1) if self.kind == "mse" else given)

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
        loss = hits = fitted = 0.0
        for part in outputs:
            rows = batch.part(start, start + len(part))
            loss += float(self._losses(part, rows.targets).double().sum())
            if self.task.dataset.classes:
                truth = rows.targets.argmax(1) if self.kind == "mse" else rows.targets
                right = part.argmax(1) == truth
                hits += float(right.sum())
                if spoilt is not None:
                    fitted += float(right[spoilt[start : start + len(part)]].sum())
            start += len(part)
        out: Numbers = {f"{split}/loss": loss / batch.rows}
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
        with _observing(self.network) as observers:
            if self.norms or observers:
                self._forward(params, batch.inputs, "track")

    @torch.no_grad()
    def observe(self) -> None:
        """Let what starts from data (ranges, step sizes) see the first batch, once."""
        with _observing(self.network) as observers:
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
    def recalibrate(self, params: Params) -> Params:
        """The buffers with BatchNorm's statistics at params: their mean over the training rows.

        In equal parts of at most PART rows, each normalised by itself; the network's own stay.
        """
        fresh = {k: b.clone() for k, b in self.buffers.items()}
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


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    """``functional_call``, compiled for each network and shape when it comes."""
    return torch.compile(functional_call)


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would call on a CPU."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for x in names if x and (path := shutil.which(x))), None)


def _latent(network: nn.Module) -> list[str]:
    layers = [(k, m) for k, m in network.named_modules() if hasattr(m, "weight")]
    found = [(k, getattr(m, "quantize", None)) for k, m in layers]
    return [f"{k}.weight" for k, q in found if q and not getattr(q, "identity", False)]


@lru_cache(maxsize=4)
def _sample(model: Model) -> tuple[nn.Module, int]:
    """A network of the model and its width: what settings are checked against, built once."""
    network = model.build(stream(0, "init")).eval()
    return network, _width(network, torch.zeros(1, *model.shape, dtype=torch.float64))


def _fitting(model: Model, data: Dataset) -> str:
    """What to type where the shapes of a model and a dataset differ."""
    if getattr(model, "criterion", None) == "value":
        return "it is a loss itself: use dataset=point"
    settings: list[str] = [f.name for f in fields(model)] if is_dataclass(model) else []
    if "shape" in settings and len(model.shape) == len(data.shape):
        return f"set model.shape=[{','.join(map(str, data.shape))}]"
    return (
        "set the model's shape to the dataset's, or take another (toy_mlp fits gaussian; mlp and "
        "cnn fit images; mlp_relu fits functions)"
    )


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [network(inputs[a:b]) for a, b in blocks(len(inputs), 1 << 16)]
    return torch.cat(parts)


def _place(batch: Batch, device: str) -> Batch:
    return Batch(batch.inputs.to(device), batch.targets.to(device))


def _coupling(network: nn.Module, batchnorm: str) -> tuple[str, str]:
    """Who makes a row's loss depend on the other rows, '' if nobody, and what does not."""
    if batchnorm == "batch" and any(isinstance(m, _BatchNorm) for m in network.modules()):
        return "BatchNorm", "batchnorm=running"
    for m in network.modules():
        if getattr(m, "slot", None) == "weight":  # of no row
            continue
        for slot in ("quantize", "gradient"):
            q = getattr(m, slot, None)
            if getattr(q, "coupled", False):
                q = getattr(q, "spec", q)
                rows = "train=fixed" if hasattr(q, "train") else "granularity=sample"
                return type(q).__name__, rows if slot == "quantize" else f"quantizer/{slot}=none"
    return "", ""


def quantized(network: nn.Module) -> dict[str, str]:
    """``layer.slot`` -> how it is quantized, of what is not in full precision."""
    found = {}
    for name, m in network.named_modules():
        if hasattr(m, "slot"):
            for slot, attribute in ((m.slot, "quantize"), ("gradient", "gradient")):
                q = getattr(m, attribute, None)
                if q is not None and not getattr(q, "identity", False):
                    found[f"{name}.{slot}"] = repr(getattr(q, "spec", q))
    return found


def _structure(network: nn.Module, frozen: Params, kind: str, batchnorm: str) -> Structure:
    modules = list(network.modules())
    base = Structure(
        stochastic=any(
            getattr(getattr(m, slot, None), "stochastic", False)
            for m in modules
            for slot in ("quantize", "gradient")
        ),
        quantized=quantized(network),
        gradients=any(getattr(m, "gradient", None) is not None for m in modules),
        criterion=CRITERIA[kind],
    )
    try:
        base = replace(base, units=network.units(), bound=None)  # type: ignore[operator]
    except AttributeError:
        base = replace(base, bound=f"{type(network).__name__} is no chain of layers")
    except ValueError as error:
        base = replace(base, bound=str(error))
    norms = [k for k, m in network.named_modules() if isinstance(m, _BatchNorm)]
    if norms and batchnorm == "batch":
        why = f"layer '{norms[0]}' (BatchNorm) normalises by the batch, which couples its rows"
        return replace(base, obstacle=f"{why}; set batchnorm=running")
    seen = replace(
        base,
        frozen=frozen,
        statistics=dict(network.named_buffers()),
        quadratic=kind == "mse",
    )
    try:
        links = network.links()  # type: ignore[operator]
        obstacle = chain.obstacle(links)
    except (AttributeError, ValueError) as error:
        links, obstacle = (), str(error)
    if obstacle is None:
        return replace(seen, links=links, obstacle=None)
    try:
        return replace(seen, cuts=_cuts(network, frozen), obstacle=obstacle)
    except (AttributeError, ValueError) as error:
        return replace(base, obstacle=f"{obstacle}; and {error}")


def _cuts(network: nn.Module, frozen: Params) -> list[Cut]:
    """The network cut at each kernel, where nothing else moves; ValueError where it cannot be."""
    who, other = _coupling(network, "running")
    if who:
        raise ValueError(f"{who} couples its rows; set {other}")
    moving = [k for k, _ in network.named_parameters() if k not in frozen]
    return [network.cut(k) for k in moving]  # type: ignore[operator]


@torch.no_grad()
def _width(network: nn.Module, row: Tensor) -> int:
    """Numbers one row keeps alive: outputs and a convolution's patches, by running one row."""
    total = [row.numel()]

    def count(module: nn.Module, args: object, out: Tensor) -> None:
        total.append(out.numel())
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 4:
            total.append(weight[0].numel() * out[0, 0].numel())

    leaves = [m for m in network.modules() if hasattr(m, "quantize") or not list(m.children())]
    hooks = [m.register_forward_hook(count) for m in leaves]
    network(row)
    for h in hooks:
        h.remove()
    return sum(total)


def _moving(wanted: str | tuple[str | int, ...], network: nn.Module, names: list[str]) -> list[str]:
    if isinstance(wanted, str):
        return names
    layers = [
        k
        for k, m in network.named_modules()
        if hasattr(m, "weight") and getattr(m, "quantize", None)
    ]
    chosen: set[str] = set()
    for want in wanted:
        if isinstance(want, int):
            if not 1 <= abs(want) <= len(layers):
                raise Mismatch(
                    "moving",
                    f"there is no quantized layer {want}; there are {len(layers)}: "
                    f"{', '.join(layers) or 'none'}",
                )
            want = layers[want - 1 if want > 0 else want] + ".*"
        hits = fnmatch.filter(names, want)
        if not hits:
            raise Mismatch(
                "moving", f"no parameter matches '{want}'; there are: {', '.join(names)}"
            )
        chosen.update(hits)
    return [k for k in names if k in chosen]


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
def _observing(network: nn.Module) -> Iterator[list[nn.Module]]:
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
def _statistics(norms: list[_BatchNorm], use: str) -> Iterator[None]:
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
