"""Handwritten digits: 1,797 real 8x8 images that ship with scikit-learn; works offline."""

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.dataset._corrupt import LABELS, Corruption, corrupt
from sa.types import STRICT, Batch, Splits


@dataclass(frozen=True, config=STRICT)
class Digits:
    """Stratified split of 1,437 training and 360 test images, standardised by training pixels.

    The split is always the same one, so test figures of different seeds compare. Source: UCI
    Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998).

    Args:
        size: height and width of an image: 8, or 16 or 32 by bilinear resizing.
        corruption: how the training split is spoilt: ``random`` or ``partial`` (labels drawn
            anew), ``shuffled`` labels, ``shuffled_pixels``, ``random_pixels`` or ``gaussian``
            (images of noise); ``none`` for not at all.
        fraction: share of the labels that corruption=partial draws anew.
        random_labels: true is short for corruption=random.

    """

    size: Literal[8, 16, 32] = 8
    corruption: Corruption = "none"
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    random_labels: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "Digits":
        if self.random_labels and self.corruption not in ("none", "random"):
            raise ValueError(
                f"random_labels=true and corruption={self.corruption}: set one of them"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, size, size)."""
        return (1, self.size, self.size)

    @property
    def classes(self) -> int:
        """Ten."""
        return 10

    @property
    def rows(self) -> int:
        """1,437 to train on; 360 more to test."""
        return 1437

    def clean(self) -> "Digits | None":
        """Return the dataset with its own labels where this one spoils them; None if not."""
        if not (self.random_labels or self.corruption in LABELS):
            return None
        return replace(self, corruption="none", random_labels=False)

    def load(self, generator: torch.Generator) -> Splits:
        """Both splits: inputs (n, 1, size, size) float64, targets (n,) int64."""
        from sklearn.datasets import load_digits  # lazily: a second of imports
        from sklearn.model_selection import train_test_split

        data = load_digits()
        x = torch.from_numpy(data.images).double().unsqueeze(1)
        y = torch.from_numpy(data.target).long()
        train, test = train_test_split(
            range(len(y)), test_size=360, stratify=data.target, random_state=0
        )
        if self.size != 8:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        mean, std = x[train].mean(), x[train].std()
        x = (x - mean) / std
        kind: Corruption = "random" if self.random_labels else self.corruption
        kept = corrupt(Batch(x[train], y[train]), kind, self.fraction, 10, generator)
        return Splits(kept, Batch(x[test], y[test]))
