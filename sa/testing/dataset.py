"""The laws of datasets, on the rows that they load."""

from collections.abc import Callable

import torch

from sa.network.hooks import trait
from sa.testing.broken import Broken, without_global_draws
from sa.types import Dataset, Splits


def _load(data: Dataset) -> Splits:
    return data.load(torch.Generator().manual_seed(0))


def _repeats(data: Dataset) -> None:
    one, two = without_global_draws(lambda: (_load(data), _load(data)))
    for name, a, b in zip(("train", "test"), one, two, strict=True):
        if not (torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)):
            raise Broken(f"two calls with one generator's state give other {name} rows")


def _shapes(data: Dataset) -> None:
    splits = _load(data)
    if splits.train.rows != data.rows:
        raise Broken(f"it says rows={data.rows} and loads {splits.train.rows}")
    for name, batch in zip(("train", "test"), splits, strict=True):
        if tuple(batch.inputs.shape[1:]) != tuple(data.shape):
            raise Broken(f"a {name} input has {tuple(batch.inputs.shape[1:])}, not {data.shape}")
        if not len(batch.inputs) or len(batch.inputs) != len(batch.targets):
            counts = f"{len(batch.inputs)} inputs and {len(batch.targets)} targets"
            raise Broken(f"the {name} split has {counts}")
        if batch.inputs.dtype != torch.float64:
            raise Broken(f"the {name} inputs are {batch.inputs.dtype}; expected torch.float64")


def _finite(data: Dataset) -> None:
    for name, batch in zip(("train", "test"), _load(data), strict=True):
        for what, values in (("inputs", batch.inputs), ("targets", batch.targets)):
            if not values.isfinite().all():
                raise Broken(f"{name} {what} hold NaN or infinity")


def _targets(data: Dataset) -> None:
    for name, batch in zip(("train", "test"), _load(data), strict=True):
        kind, shape = batch.targets.dtype, tuple(batch.targets.shape)
        if data.classes is None:
            if kind != torch.float64 or len(shape) != 2:
                raise Broken(f"{name} targets are {kind} {shape}; expected float64 (rows, numbers)")
            outputs = trait(data, "outputs")
            if outputs is not None and shape[1] != outputs:
                raise Broken(f"{name} targets have {shape[1]} numbers; it declares {outputs}")
        elif kind != torch.int64 or len(shape) != 1:
            raise Broken(f"{name} targets are {kind} {shape}; expected classes, int64 (rows,)")
        elif not (0 <= int(batch.targets.min()) <= int(batch.targets.max()) < data.classes):
            raise Broken(f"{name} targets are not all from 0 to {data.classes - 1}")


LAWS: dict[str, Callable[[Dataset], None]] = {
    "repeats": _repeats,
    "shapes": _shapes,
    "finite": _finite,
    "targets": _targets,
}
