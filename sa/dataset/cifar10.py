"""CIFAR-10: 60,000 small colour images in ten classes (Krizhevsky 2009), from local files."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.dataset import _cifar, _own
from sa.dataset._corrupt import Corruptible, Corruption
from sa.dataset._pixels import moments
from sa.types import STRICT, Batch, MissingData, Splits


@dataclass(frozen=True, config=STRICT)
class CIFAR10(Corruptible):
    """The first ``n`` training images and all test images, normalised, in the files' order.

    Args:
        root: the folder cifar-10-batches-py, or the folder that it is in. It does not count for the
            identity of a run.
        n: number of training images, the first ones; all test images are used.
        normalise: subtract the mean and divide by the standard deviation of every ``pixel`` (of
            each channel) or of every ``channel``, over all 50,000 training images (Cohen et al.,
            ICLR 2021).
        corruption: corruption of the training split: ``random`` or ``partial`` (random labels),
            ``shuffled`` (permuted labels), ``shuffled_pixels``, ``random_pixels`` or ``gaussian``
            (images of noise); ``none`` for no corruption.
        fraction: share of the labels that corruption=partial replaces by random ones.
        random_labels: true is short for corruption=random.

    """

    root: str = "data"
    n: Annotated[int, Gt(0), Le(50_000)] = 50_000
    normalise: Literal["pixel", "channel"] = "pixel"
    corruption: Corruption = "none"
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    random_labels: bool = False

    @model_validator(mode="after")
    def _check(self) -> "CIFAR10":
        """Raise ValueError if ``random_labels`` and ``corruption`` contradict each other."""
        self.agree()
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (3, 32, 32)."""
        return (3, 32, 32)

    @property
    def classes(self) -> int:
        """The number of classes, 10."""
        return 10

    @property
    def rows(self) -> int:
        """The number of training rows, ``n``."""
        return self.n

    def check(self) -> None:
        """Raise MissingData if the files are not on this machine."""
        self._folder()

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of all training images, (3, 32, 32) or (3, 1, 1)."""
        folder = self._folder()
        return _scale(_own.stamp(folder / x for x in _cifar.TRAIN), self.normalise == "channel")

    def _folder(self) -> Path:
        """Return the folder of the files; raise MissingData if they are not on this machine."""
        folder = _cifar.find(self.root)
        if folder is None:
            raise MissingData(_cifar.missing(self.root))
        return folder

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits: inputs (n, 3, 32, 32) float64, targets (n,) int64."""
        folder = self._folder()
        images, labels = _joined(folder)
        if len(images) < self.n:
            raise ValueError(
                f"n={self.n}: {folder} holds {len(images)} training images; set n={len(images)} or "
                "less"
            )
        mean, std = self.scale()
        train, test = (
            Batch(x.double().sub_(mean).div_(std), y)
            for x, y in ((images[: self.n], labels[: self.n]), _read(folder, _cifar.TEST))
        )
        return Splits(self.corrupted(train, generator), test)


@lru_cache(maxsize=2)
def _scale(stamp: _own.Stamp, pooled: bool) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of all training images; computed again if a file has changed."""
    return moments(_joined(Path(stamp[0][0]).parent)[0], pooled)


def _joined(folder: Path) -> tuple[Tensor, Tensor]:
    """Return all training images and their labels."""
    parts = [_read(folder, name) for name in _cifar.TRAIN]
    images, labels = (torch.cat(x) for x in zip(*parts, strict=True))
    return images, labels


def _read(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Return the images (n, 3, 32, 32) uint8 and the labels (n,) int64 of one file."""
    images, labels = _cifar.read(folder / name)
    return torch.from_numpy(images).view(-1, 3, 32, 32), torch.from_numpy(labels)
