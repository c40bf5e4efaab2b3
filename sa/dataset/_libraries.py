"""Datasets of torchvision and of the Hugging Face hub as arrays, for ``python -m sa.data fetch``.

Only the fetch calls this: a run reads the file that it wrote.
"""

import inspect
import socket
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sa.dataset._own import Array

PATIENCE = 20
"""The longest time in seconds for which a server may be silent."""


class Unusable(Exception):
    """A library, or a dataset of it, that cannot be read; the message says what to do."""


def torchvision(name: str, folder: Path, size: int | None = None) -> dict[str, Array]:
    """Return the arrays of a dataset of torchvision, SPLIT_inputs and SPLIT_targets.

    Args:
        name: the class in torchvision.datasets.
        folder: where torchvision downloads to.
        size: height and width to resize every image to; None expects images of one size.

    Raises:
        Unusable: the library, the class or its data cannot be read.

    """
    there = vars(_library("torchvision.datasets", "torchvision"))
    kind = there.get(name)
    if not inspect.isclass(kind):
        names = ", ".join(k for k in there.get("__all__", ()) if k[:1].isupper())
        raise Unusable(f"torchvision:{name}: there is no such dataset; there are: {names}")
    takes = inspect.signature(kind).parameters
    settings = {k: v for k, v in {"root": str(folder), "download": True}.items() if k in takes}
    splits: dict[str, dict[str, Any]] = {"train": {}}  # without splits, all are for training
    if "train" in takes:
        splits = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes:
        splits = {split: {"split": split} for split in ("train", "test")}
    arrays: dict[str, Array] = {}
    for split, chosen in splits.items():
        with _patience():
            rows = _made(f"torchvision:{name}", partial(kind, **settings, **chosen))
        pairs = [rows[i] for i in range(len(rows))]
        x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        arrays |= _arrays(f"torchvision:{name}", split, x, y, size)
    return arrays


def huggingface(
    name: str, inputs: str | None = None, targets: str | None = None, size: int | None = None
) -> dict[str, Array]:
    """Return the arrays of a dataset of the Hugging Face hub, SPLIT_inputs and SPLIT_targets.

    Args:
        name: OWNER/NAME, or OWNER/NAME:CONFIG.
        inputs: the column of the inputs; None for the only column of images.
        targets: the column of the targets; None for the only column of classes.
        size: height and width to resize every image to; None expects images of one size.

    Raises:
        Unusable: the library, the dataset or a column cannot be read.

    """
    library, hub = (_library(x, "huggingface") for x in ("datasets", "huggingface_hub"))
    what = f"huggingface:{name}"
    owner, _, config = name.partition(":")
    if not hub.constants.HF_HUB_OFFLINE:  # load_dataset itself would try for half a minute
        _made(what, partial(hub.HfApi().dataset_info, owner, timeout=PATIENCE))
    splits = _made(what, partial(library.load_dataset, owner, *([config] if config else [])))
    arrays: dict[str, Array] = {}
    for split, rows in splits.items():
        x = inputs or _only(what, rows.features, "Image", "--inputs")
        y = targets or _only(what, rows.features, "ClassLabel", "--targets")
        for column in (x, y):
            if column not in rows.features:
                listed = ", ".join(rows.features)
                raise Unusable(f"{what}: there is no column {column}; there are: {listed}")
        arrays |= _arrays(what, split, rows[x][:], rows[y][:], size)
    return arrays


def _library(module: str, extra: str) -> Any:
    """Return an optional library; raise Unusable if it is not there or does not work."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Unusable(f"fetching needs {module}: pip install 'sa-lab[{extra}]'") from error
    except Exception as error:  # torchvision raises a RuntimeError if torch has another build
        raise Unusable(
            f"{module} is installed, but cannot be imported ({error}); install the one that fits "
            "your torch"
        ) from error


def _made(what: str, make: Callable[[], Any]) -> Any:
    """Return the object that a library makes; raise Unusable with the error of the library."""
    try:
        return make()
    except Exception as error:  # the libraries and their servers raise errors of many kinds
        why = textwrap.shorten(str(error), 300, placeholder=" ...") or "no reason given"
        raise Unusable(
            f"{what} could not be fetched ({type(error).__name__}: {why}); check the name and the "
            "connection, then repeat the command. Without a connection there are dataset=digits, "
            "and dataset=images, arrays or table for files of your own"
        ) from error


@contextmanager
def _patience() -> Iterator[None]:
    """Let a server be silent for PATIENCE seconds inside the ``with``, not for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _only(what: str, features: Any, kind: str, option: str) -> str:
    """Return the only column of a kind; raise Unusable if there is none or several."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        raise Unusable(
            f"{what}: it has {len(found)} columns of the kind {kind}; type {option} COLUMN, one of "
            f"{', '.join(features)}"
        )
    return str(found[0])


def _arrays(
    what: str, split: str, inputs: Sequence[Any], targets: Iterable[Any], size: int | None
) -> dict[str, Array]:
    """Return the arrays of a split: images as (rows, channels, height, width) uint8."""
    pillow = sys.modules.get("PIL.Image")  # a library that makes images has imported it
    if pillow is not None and all(isinstance(x, pillow.Image) for x in inputs):
        mode = "L" if all(x.mode in ("1", "L") for x in inputs) else "RGB"
        rows = [_pixels(x.convert(mode), size) for x in inputs]
    else:
        rows = [np.asarray(x) for x in inputs]
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1:
        advice = "; type --size PIXELS to resize images" if len(shapes[0]) == 3 else ""
        raise Unusable(f"{what}: inputs have shapes {shapes[0]}, {shapes[1]}, ...{advice}")
    return {f"{split}_inputs": np.stack(rows), f"{split}_targets": np.asarray(list(targets))}


def _pixels(image: Any, size: int | None) -> Array:
    """Return an image as (channels, height, width) uint8."""
    pixels = np.asarray(image if size is None else image.resize((size, size)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
