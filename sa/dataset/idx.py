"""Images from idx files: those of MNIST, KMNIST, EMNIST, or your own."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.dataset import _idx, _own
from sa.dataset._pixels import moments
from sa.types import STRICT, BadData, Batch, MissingData, Splits

TEST = ("t10k", "test")
"""The beginnings of the names of test files: t10k for MNIST and KMNIST, test for EMNIST."""

_EXAMPLE = "dataset.root=DIR, a folder with train-images-idx3-ubyte and three files like it"


@dataclass(frozen=True, config=STRICT)
class Idx(_own.Own):
    """The images and labels in four idx files, plain or .gz, standardised.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, and the same for testing with
    t10k or test in place of train. All may have the same prefix, as those of EMNIST have. The mean
    and the standard deviation are those of all pixels of all training images.

    Args:
        root: the folder of the files. A run is identified by their content, not by the folder.
        prefix: what the names of the files begin with, such as ``emnist-letters-``.
        n: number of training images, the first ones; null takes all. All test images are used.
        transpose: exchange rows and columns of each image, as EMNIST needs to show upright letters.
        first_label: the label of the first class. Labels of EMNIST's letters are 1 to 26, so they
            need 1.
        classes: number of classes; null takes the largest class number + 1.
        sha: hash of the content, 16 hexadecimal digits; it is filled in for you. Files with
            another content are then an error.

    """

    root: str = ""
    prefix: str = ""
    n: Annotated[int, Gt(0)] | None = None
    transpose: bool = False
    first_label: Annotated[int, Ge(0)] = 0
    classes: Annotated[int, Gt(0)] | None = None
    sha: str = ""

    @model_validator(mode="after")
    def _count(self) -> "Idx":
        """Set ``classes`` from the files."""
        self.count()
        return self

    @property
    def path(self) -> str:  # type: ignore[override]
        """The folder."""
        return self.root

    def found(self) -> _own.Content:
        """Return the content of the files; raise MissingData or BadData."""
        if not self.root:
            raise BadData(f"type where your data are: {_EXAMPLE}, or use dataset=digits")
        files = _find(self.root, self.prefix)
        try:
            return _read(_own.stamp(files), self.n, self.transpose, self.first_label)
        except _idx.Damaged as error:
            raise BadData(f"{error}; replace it") from error


def _find(root: str, prefix: str) -> list[Path]:
    """Return the files: images and labels to train on, then those to test on."""
    folder = Path(root).expanduser()
    for test in TEST:
        names = [f"{prefix}{x}" for s in ("train", test)
                 for x in (f"{s}-images-idx3-ubyte", f"{s}-labels-idx1-ubyte")]  # fmt: skip
        if files := _idx.find([folder], names):
            return files
    ends = "train-images[-.]idx3-ubyte*"
    there = sorted(
        {f.name.partition("train-images")[0] for f in folder.glob(f"*{ends}")} - {prefix}
    )
    also = f"; there are files with dataset.prefix={' or '.join(there)}" if there else ""
    raise MissingData(
        f"{root} lacks files of {prefix}train-images-idx3-ubyte, {prefix}train-labels-idx1-ubyte, "
        f"{prefix}t10k-images-idx3-ubyte and {prefix}t10k-labels-idx1-ubyte (test in place of t10k "
        f"and .gz are fine){also}; type {_EXAMPLE}, or use dataset=digits, which needs no files"
    )


@lru_cache(maxsize=1)
def _read(stamp: _own.Stamp, n: int | None, transpose: bool, first_label: int) -> _own.Content:
    """Return the content of the files; they are read again if one has changed."""
    files = [Path(name) for name, *_ in stamp]
    arrays: dict[str, Any] = {}
    for prefix, images, labels in zip(_own.SPLITS, files[::2], files[1::2], strict=True):
        pixels, given = _idx.read(images, _idx.IMAGES), _idx.read(labels, _idx.LABELS)
        if len(pixels) != len(given):
            raise BadData(f"{labels} has {len(given)} labels for {len(pixels)} images in {images}")
        arrays[f"{prefix}inputs"] = (pixels.transpose(0, 2, 1) if transpose else pixels)[:, None]
        arrays[f"{prefix}targets"] = _classes(labels, given, first_label)
    content = _own.content(str(files[0].parent), arrays, 0.5)
    train, test = content.splits
    if n is not None and n > train.rows:
        raise BadData(f"n={n}: {files[0]} has {train.rows} images; set n={train.rows} or less")
    mean, std = moments(torch.from_numpy(arrays["inputs"].copy()), pooled=True)
    splits = Splits(*(Batch(b.inputs.sub_(mean).div_(std), b.targets) for b in (train, test)))
    kept = Splits(splits.train.part(0, n or train.rows), splits.test)
    return replace(content, splits=kept, scale=(mean, std))


def _classes(file: Path, labels: Any, first: int) -> Any:
    """Return class numbers from 0; raise BadData if ``first`` is not the first of the labels."""
    least = int(labels.min()) if len(labels) else first
    if least != first:
        raise BadData(
            f"{file}: its smallest label is {least}, and first_label={first}; set "
            f"dataset.first_label={least}"
        )
    return labels.astype("int64") - first
