"""Handwritten digits: 1,797 real 8x8 images that ship with scikit-learn; works offline."""

from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.dataset._corrupt import Corruptible, Corruption
from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Digits(Corruptible):
    """1,437 training and 360 test images, with about the same share of every class in both splits.

    All seeds have the same split, so their test losses can be compared. Pixels are standardised by
    mean and standard deviation of the training pixels. Source: UCI Optical Recognition of
    Handwritten Digits (Alpaydin & Kaynak 1998).

    Args:
        size: height and width of an image: 8; 16 and 32 resize it with bilinear interpolation.
        corruption: corruption of the training split: ``random`` or ``partial`` (random labels),
            ``shuffled`` (permuted labels), ``shuffled_pixels``, ``random_pixels`` or ``gaussian``
            (images of noise); ``none`` for no corruption.
        fraction: share of the labels that corruption=partial replaces by random ones.
        random_labels: true is short for corruption=random.

    """

    size: Literal[8, 16, 32] = 8
    corruption: Corruption = "none"
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    random_labels: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Digits":
        """Raise ValueError if ``random_labels`` and ``corruption`` contradict each other."""
        self.agree()
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, (1, size, size)."""
        return (1, self.size, self.size)

    @property
    def classes(self) -> int:
        """The number of classes, 10."""
        return 10

    @property
    def rows(self) -> int:
        """The number of training images, 1,437."""
        return 1437

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of all training pixels, (1, 1, 1)."""
        x, _, train, _ = _images(self.size)
        return x[train].mean().view(1, 1, 1), x[train].std().view(1, 1, 1)

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits: inputs (n, 1, size, size) float64, targets (n,) int64."""
        x, y, train, test = _images(self.size)
        mean, std = self.scale()
        x = (x - mean) / std
        kept = self.corrupted(Batch(x[train], y[train]), generator)
        return Splits(kept, Batch(x[test], y[test]))


@lru_cache(maxsize=1)
def _images(size: int) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Return all images (1797, 1, size, size), their labels, and the rows of both splits."""
    from sklearn.datasets import load_digits  # here, because its import takes a second
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x = torch.from_numpy(data.images).double().unsqueeze(1)
    y = torch.from_numpy(data.target).long()
    train, test = train_test_split(
        range(len(y)), test_size=360, stratify=data.target, random_state=0
    )
    if size != 8:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x, y, train, test
