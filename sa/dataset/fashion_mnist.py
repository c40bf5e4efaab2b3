"""Fashion-MNIST: 70,000 grey images of clothes in ten classes (Xiao et al. 2017, arXiv 1708.07747).

From local files, such as those of Debian's package dataset-fashion-mnist.
"""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.dataset import _fashion_mnist, _idx, _own
from sa.dataset._corrupt import Corruptible, Corruption
from sa.dataset._pixels import moments
from sa.types import STRICT, BadData, Batch, MissingData, Splits


@dataclass(frozen=True, config=STRICT)
class FashionMNIST(Corruptible):
    """The first ``n`` training images and all 10,000 test images, standardised, in file order.

    Args:
        root: the folder of the four files, or the folder that fashion-mnist is in. If it lacks
            them, the folder SA_DATA and that of Debian's package dataset-fashion-mnist are tried.
            It does not count for the identity of a run.
        n: number of training images, the first ones; all test images are used.
        size: height and width of an image: 28; 32 adds two black pixels on each side, for networks
            that expect images of CIFAR's size.
        channels: 1; 3 repeats the grey channel, for networks that expect colours.
        normalise: subtract the mean and divide by the standard deviation of all pixels together
            (``global``) or of every ``pixel``, over all 60,000 training images of 28 x 28. Five
            pixels hardly vary: with ``pixel``, single inputs are up to 185 deviations in the
            training split and 284 in the test split.
        corruption: corruption of the training split: ``random`` or ``partial`` (random labels),
            ``shuffled`` (permuted labels), ``shuffled_pixels``, ``random_pixels`` or ``gaussian``
            (images of noise); ``none`` for no corruption. The border of size=32 stays black.
        fraction: share of the labels that corruption=partial replaces by random ones.
        random_labels: true is short for corruption=random.

    """

    root: str = "data"
    n: Annotated[int, Gt(0), Le(60_000)] = 60_000
    size: Literal[28, 32] = 28
    channels: Literal[1, 3] = 1
    normalise: Literal["global", "pixel"] = "global"
    corruption: Corruption = "none"
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    random_labels: bool = False

    @model_validator(mode="after")
    def _check(self) -> "FashionMNIST":
        """Raise ValueError if ``random_labels`` and ``corruption`` contradict each other."""
        self.agree()
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (channels, size, size)."""
        return (self.channels, self.size, self.size)

    @property
    def classes(self) -> int:
        """The number of classes, 10."""
        return 10

    @property
    def rows(self) -> int:
        """The number of training rows, ``n``."""
        return self.n

    def check(self) -> None:
        """Raise MissingData if the files are not on this machine, BadData if they are damaged."""
        self._files()

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits: inputs (n, channels, size, size) float64, targets (n,) int64."""
        images, labels, unseen, truth = self._files()
        mean, std = self._moments()
        first, rest = (x.double().sub_(mean).div_(std) for x in (images[: self.n], unseen))
        train = self.corrupted(Batch(first, labels[: self.n]), generator)
        black = -float(mean / std) if self.normalise == "global" else 0.0
        return Splits(*(self._framed(b, black) for b in (train, Batch(rest, truth))))

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the training images, (1, size, size) or (1, 1, 1).

        The border of size=32 is black before and after ``pixel``: its mean is 0, its deviation 1.
        """
        mean, std = self._moments()
        if self.normalise == "global":
            return mean, std
        border = [(self.size - 28) // 2] * 4
        return F.pad(mean, border), F.pad(std, border, value=1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the training images of 28 x 28."""
        return _moments(_own.stamp(self._found()), self.normalise == "global")

    def _found(self) -> list[Path]:
        """Return the four files; raise MissingData if they are not on this machine."""
        files = _fashion_mnist.find(self.root)
        if files is None:
            raise MissingData(_fashion_mnist.missing(self.root))
        return files

    def _files(self) -> tuple[Tensor, ...]:
        """Return images (n, 1, 28, 28) uint8 and labels (n,) int64 of both splits."""
        return _read(_own.stamp(self._found()))

    def _framed(self, batch: Batch, black: float) -> Batch:
        """Return the rows with a border of black pixels, and the channel repeated."""
        inputs, border = batch.inputs, (self.size - 28) // 2
        if border:
            inputs = F.pad(inputs, [border] * 4, value=black)
        return Batch(inputs.expand(-1, self.channels, -1, -1), batch.targets)


@lru_cache(maxsize=2)
def _moments(stamp: _own.Stamp, pooled: bool) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the training images; again if a file has changed."""
    return moments(_read(stamp)[0], pooled)


@lru_cache(maxsize=1)
def _read(stamp: _own.Stamp) -> tuple[Tensor, ...]:
    """Return images and labels of both splits; they are read again if a file has changed."""
    try:
        arrays = _fashion_mnist.read([Path(name) for name, *_ in stamp])
    except _idx.Damaged as error:
        raise BadData(str(error)) from error
    images, labels, unseen, truth = (torch.from_numpy(x.copy()) for x in arrays)
    return images.unsqueeze(1), labels.long(), unseen.unsqueeze(1), truth.long()
