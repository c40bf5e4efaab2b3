"""`Task`: model, dataset, criterion and numerics of the loss that is studied, and their checks."""

import fnmatch
import os
import shutil
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from sa.network.hooks import called, label, trait
from sa.network.layers import Affine
from sa.network.network import Network
from sa.network.read import coupling, describe, latent_weights, one_row, row_width
from sa.network.structure import Structure
from sa.objective.augment import Scale
from sa.objective.criterion import CRITERIA
from sa.objective.forward import NetworkForward
from sa.objective.modes import keepers
from sa.objective.numerics import Numerics
from sa.objective.vectorize import can_vmap
from sa.params import stream
from sa.types import STRICT, Batch, Dataset, Model, Params


def compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile calls on a CPU; None if none is."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for x in names if x and (path := shutil.which(x))), None)


class Mismatch(ValueError):
    """Raised for settings that are valid alone but not together; ``key`` is the one to change."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, config=STRICT)
class Task:
    """A model, a dataset and a criterion, the parameters that move, and how the loss is computed.

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
        """Raise Mismatch if the settings do not fit together; no data is loaded."""
        model, data = self.model, self.dataset
        if tuple(model.shape) != tuple(data.shape):
            raise Mismatch(
                "model",
                f"the model takes inputs of shape {tuple(model.shape)}, the dataset has inputs of "
                f"shape {tuple(data.shape)}; {_remedy(model, data)}",
            )
        if data.classes and model.outputs < data.classes:
            raise Mismatch(
                "model",
                f"the model has {model.outputs} outputs, the dataset has {data.classes} classes; "
                f"give the model {data.classes} outputs, e.g. model.outputs={data.classes}",
            )
        width = trait(data, "outputs")
        if width is not None and model.outputs != width:
            raise Mismatch(
                "model",
                f"the model has {model.outputs} outputs, the dataset has {width} targets a row; "
                f"set model.outputs={width}",
            )
        rows = self.numerics.batch_size
        if rows is not None and rows > data.rows:
            raise Mismatch(
                "batch_size",
                f"a step takes {rows} rows, and the dataset has only {data.rows}; set "
                f"batch_size={data.rows} or less, or batch_size=null for all rows",
            )
        demanded = trait(model, "criterion")
        if demanded != self.kind and "value" in (demanded, self.criterion):
            why = "value works only for models that are a loss themselves (rosenbrock, quadratic)"
            if demanded:
                why = f"{self.criterion} does not work for a model that is a loss itself"
            raise Mismatch("criterion", f"{why}; use criterion=auto")
        if self.criterion == "ce" and not data.classes:
            raise Mismatch(
                "criterion", "ce needs classes, and the dataset has none; use criterion=mse"
            )
        network, width = _sample(model)  # type: ignore[arg-type]
        moving_names(self.moving, network, [k for k, _ in network.named_parameters()])
        self._check_memory(network, width)
        own = self.numerics
        if why_not := one_row(network, own.batchnorm, min(own.batch_size or data.rows, data.rows)):
            raise Mismatch(
                "batch_size", f"{why_not}; set batch_size=2 or more, or batchnorm=running"
            )
        if own.autocast and own.dtype == "float64":
            raise Mismatch(
                "autocast", f"{own.autocast} does not work with dtype=float64; set dtype=float32"
            )
        if own.augment:
            self._check_augment()
        if own.mode == "train" and isinstance(network, Network):
            raise Mismatch(
                "mode", "no layer of this model works differently in training mode; set mode=eval"
            )
        if own.mode == "train" and own.compile:
            raise Mismatch("mode", "mode=train does not work with compile=true; set compile=false")

    def check_machine(self, here: bool = True) -> None:
        """Raise an error if this machine lacks something that the task needs.

        Args:
            here: True if the run will be on this machine; then its device and its compiler are
                checked too.

        Raises:
            Mismatch: there is no GPU, or no compiler.
            MissingData: the dataset's files are not on this machine.

        """
        device = self.numerics.device
        if here and device.startswith("cuda") and not torch.cuda.is_available():
            raise Mismatch("device", f"{device} is not available here; use device=cpu")
        if here and self.numerics.compile and device == "cpu" and not compiler():
            raise Mismatch("compile", "there is no C++ compiler here; set compile=false")
        called(self.dataset, "check")
        if self.numerics.augment:
            self.scale()

    def scale(self) -> Scale:
        """Return the mean and the deviation that the dataset's images were standardised with.

        Raises:
            Mismatch: the dataset does not know them.

        """
        scale = called(self.dataset, "scale")
        if scale is None:
            raise Mismatch(
                "augment",
                f"dataset={label(self.dataset)} does not say which number is black; take cifar10, "
                "fashion_mnist, digits, idx, images, torchvision or huggingface, or augment=null",
            )
        return scale

    def _check_augment(self) -> None:
        """Raise Mismatch if the images of a step cannot be changed as ``augment`` says."""
        augment, shape = self.numerics.augment, tuple(self.dataset.shape)
        assert augment
        if len(shape) != 3:
            raise Mismatch(
                "augment",
                f"crops and flips are for images, (channels, height, width); a row of this dataset "
                f"has shape {shape}; set augment=null",
            )
        if augment.crop >= min(shape[1:]):
            raise Mismatch(
                "augment",
                f"crop={augment.crop} can cut out nothing but black, from images of {shape[1]} x "
                f"{shape[2]}; set crop to less than {min(shape[1:])}",
            )
        if not (augment.crop or augment.flip):
            raise Mismatch("augment", "crop=0 and flip=false change nothing; set augment=null")

    def _check_memory(self, network: nn.Module, width: int) -> None:
        """Raise Mismatch if ``memory`` is too small for one point."""
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
        """The name of the criterion: ce, mse or value."""
        if self.criterion != "auto":
            return self.criterion
        demanded: str | None = trait(self.model, "criterion")
        return demanded or ("ce" if self.dataset.classes else "mse")

    def coupling(self) -> tuple[str, str]:
        """Return (the kind of layer that couples the rows of a batch, the setting that avoids it).

        Both are empty if the loss of a row does not depend on the other rows.
        """
        return coupling(_sample(self.model)[0], self.numerics.batchnorm)  # type: ignore[arg-type]

    def latent(self) -> list[str]:
        """Return the names of the weights that a quantizer is applied to."""
        return latent_weights(_sample(self.model)[0])  # type: ignore[arg-type]

    def point(self) -> Params:
        """Return the parameters that move, with some initial values; no data is loaded.

        It serves for their names and shapes.
        """
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        named = {k: p.detach() for k, p in network.named_parameters()}
        return {k: named[k] for k in moving_names(self.moving, network, list(named))}

    def keeps(self) -> bool:
        """Return True if a quantizer stores numbers from data or has parameters."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        return bool(keepers(network))

    def stacks(self) -> bool:
        """Return True if vmap can run several networks of the model at once; it is tried."""
        network, _ = _sample(self.model)  # type: ignore[arg-type]
        two = torch.zeros(2, *self.model.shape, dtype=torch.float64)
        forward = NetworkForward(network=network, kind="value")
        return can_vmap(forward, dict(network.named_parameters()), Batch(two, two))

    def structure(self) -> Structure:
        """Return the structure of the network, which estimators check; no data is loaded."""
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
    """Return a network of the model and its width; checks use it, and it is built only once."""
    network = model.build(stream(0, "init")).eval()
    return network, row_width(network, torch.zeros(1, *model.shape, dtype=torch.float64))


def _remedy(model: Model, data: Dataset) -> str:
    """Return what to type if the shapes of a model and a dataset differ."""
    if trait(model, "criterion") == "value":
        return "the model is a loss itself: use dataset=point"
    settings: list[str] = [f.name for f in fields(model)] if is_dataclass(model) else []
    if "shape" in settings and len(model.shape) == len(data.shape):
        return f"set model.shape=[{','.join(map(str, data.shape))}]"
    return (
        "use a model that fits the dataset (toy_mlp fits gaussian; mlp fits any data; cnn fits "
        "images; mlp_relu fits functions)"
    )


def moving_names(
    wanted: str | tuple[str | int, ...], network: nn.Module, names: list[str]
) -> list[str]:
    """Return the names of the parameters that move, in the network's order.

    Args:
        wanted: ``all``, or name patterns and 1-based numbers of quantized layers; negative numbers
            count from the end.
        network: the network.
        names: the names of all its parameters.

    Raises:
        Mismatch: a pattern or a number matches nothing.

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
