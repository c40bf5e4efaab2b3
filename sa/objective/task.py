"""Model x dataset x criterion -> the loss being studied, and which of its parameters move."""

import fnmatch
import os
import shutil
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.layers import Affine
from sa.network.read import coupling, describe, latent_weights, row_width
from sa.network.structure import Structure
from sa.objective.criterion import CRITERIA
from sa.objective.modes import keepers
from sa.objective.numerics import Numerics
from sa.params import stream
from sa.types import STRICT, Dataset, Model, Params, called, trait


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call on a CPU."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for x in names if x and (path := shutil.which(x))), None)


class Mismatch(ValueError):
    """Settings that are each right and do not go together; ``key`` says which to change."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, config=STRICT)
class Task:
    """What is studied: which network, data, loss and parameters, and how it is computed.

    Args:
        model: builds the network.
        dataset: loads the rows.
        criterion: ``ce``, ``mse``, ``value`` (the output itself, of a model that is a loss) or
            ``auto`` (value for such a model, ce for classes, else mse).
        moving: which parameters move: ``all``, or a list of name patterns (``fc1.*``) and 1-based
            numbers of quantized layers (negative from the end).
        numerics: how the loss is computed.

    """

    model: Model
    dataset: Dataset
    criterion: Literal["auto", "mse", "ce", "value"] = "auto"
    moving: Literal["all"] | tuple[str | int, ...] = "all"
    numerics: Numerics = Numerics()

    def check(self) -> None:
        """Refuse what does not fit, before any work: raises Mismatch naming both sides."""
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
        width = trait(data, "outputs")
        if width is not None and model.outputs != width:
            raise Mismatch(
                "model",
                f"{type(model).__name__} has {model.outputs} outputs, {type(data).__name__} has "
                f"{width} targets a row; set model.outputs={width}",
            )
        rows = self.numerics.batch_size
        if rows is not None and rows > data.rows:
            raise Mismatch(
                "batch_size",
                f"{rows} rows a step, and {type(data).__name__} has {data.rows}; "
                "batch_size=null is all of them",
            )
        demanded = trait(model, "criterion")
        if demanded != self.kind and "value" in (demanded, self.criterion):
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
        moving_names(self.moving, network, [k for k, _ in network.named_parameters()])
        self._enough(network, width)
        if self.numerics.autocast and self.numerics.dtype == "float64":
            kind = self.numerics.autocast
            raise Mismatch("autocast", f"{kind} products of float64; set dtype=float32")

    def check_machine(self, here: bool = True) -> None:
        """Refuse what this machine lacks, after `check`.

        Args:
            here: whether the run will be on this machine, which then needs its device.

        Raises:
            Mismatch: there is no GPU, or no compiler.
            MissingData: the dataset's files are not on this machine.

        """
        device = self.numerics.device
        if here and device.startswith("cuda") and not torch.cuda.is_available():
            raise Mismatch("device", f"{device} is not available here; use device=cpu")
        if here and self.numerics.compile and device == "cpu" and not compiler():
            raise Mismatch("compile", "there is no C++ compiler here; compile=false")
        called(self.dataset, "check")

    def _enough(self, network: nn.Module, width: int) -> None:
        """Refuse a memory budget too small for one point."""
        least, what, instead = 8 * 12 * width, "one row of this network", ""
        own, every = self.numerics, self.dataset.rows
        who, other = coupling(network, own.batchnorm)
        if who:
            rows = min(own.batch_size or every, every)
            least, what = 8 * width * rows, f"the {rows} rows that {who} normalises together"
            instead = f" or more, a smaller batch_size, or {other}"
        if own.memory < least:
            raise Mismatch(
                "memory", f"{own.memory} bytes are too few for {what}; set memory={least}{instead}"
            )

    @property
    def kind(self) -> str:
        """The criterion's name: ce, mse or value."""
        if self.criterion != "auto":
            return self.criterion
        demanded: str | None = trait(self.model, "criterion")
        return demanded or ("ce" if self.dataset.classes else "mse")

    def coupling(self) -> tuple[str, str]:
        """Who makes a row's loss depend on the other rows, '' if nobody, and what does not."""
        return coupling(_sample(self.model)[0], self.numerics.batchnorm)  # type: ignore[arg-type]

    def latent(self) -> list[str]:
        """The weights that a quantizer stands before, by name."""
        return latent_weights(_sample(self.model)[0])  # type: ignore[arg-type]

    def point(self) -> Params:
        """What moves, at some start: for its names and shapes, before any data is loaded."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        named = {k: p.detach() for k, p in network.named_parameters()}
        return {k: named[k] for k in moving_names(self.moving, network, list(named))}

    def keeps(self) -> bool:
        """Whether quantizers of the network keep anything from data, or learn."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        return bool(keepers(network))

    def structure(self) -> Structure:
        """The network's structure, before any data is loaded: what an estimator may require."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        named = {k: p.detach() for k, p in network.named_parameters()}
        moving = moving_names(self.moving, network, list(named))
        frozen = {k: p for k, p in named.items() if k not in moving}
        kind, draw, norms = self.kind, stream(0, "rows"), self.numerics.batchnorm
        rows = torch.randn(16, *self.model.shape, generator=draw, dtype=torch.float64)
        example = None if kind == "value" else rows
        return describe(network, frozen, norms, CRITERIA[kind], kind == "mse", example)


@lru_cache(maxsize=4)
def _sample(model: Model) -> tuple[nn.Module, int]:
    """A network of the model and its width: what settings are checked against, built once."""
    network = model.build(stream(0, "init")).eval()
    return network, row_width(network, torch.zeros(1, *model.shape, dtype=torch.float64))


def _fitting(model: Model, data: Dataset) -> str:
    """What to type where the shapes of a model and a dataset differ."""
    if trait(model, "criterion") == "value":
        return "it is a loss itself: use dataset=point"
    settings: list[str] = [f.name for f in fields(model)] if is_dataclass(model) else []
    if "shape" in settings and len(model.shape) == len(data.shape):
        return f"set model.shape=[{','.join(map(str, data.shape))}]"
    return (
        "set the model's shape to the dataset's, or take another (toy_mlp fits gaussian; mlp fits "
        "any data; cnn fits images; mlp_relu fits functions)"
    )


def moving_names(
    wanted: str | tuple[str | int, ...], network: nn.Module, names: list[str]
) -> list[str]:
    """Return the names of the parameters that move, in the network's order.

    Args:
        wanted: ``all``, or name patterns and 1-based numbers of quantized layers.
        network: The network.
        names: Its parameters.

    Raises:
        Mismatch: a pattern or number that matches nothing.

    """
    if isinstance(wanted, str):
        return names
    layers = [k for k, m in network.named_modules() if isinstance(m, Affine) and m.quantize]
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
