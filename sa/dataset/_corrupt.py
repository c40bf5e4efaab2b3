"""Corruptions of a training split, which can be fitted but not learnt (Zhang et al., ICLR 2017)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from sa.types import Batch

Corruption = Literal[
    "none", "random", "partial", "shuffled", "shuffled_pixels", "random_pixels", "gaussian"
]

LABELS = ("random", "partial", "shuffled")
"""The corruptions of labels; the others are of images."""


class Corruptible:
    """Base class of datasets of images whose training split can be corrupted.

    A subclass is a dataclass with the settings ``corruption``, ``fraction`` and ``random_labels``.
    """

    if TYPE_CHECKING:
        corruption: Corruption
        fraction: float
        random_labels: bool

        @property
        def classes(self) -> int: ...

    def agree(self) -> None:
        """Raise ValueError if ``random_labels`` and ``corruption`` contradict each other."""
        if self.random_labels and self.corruption not in ("none", "random"):
            raise ValueError(
                f"random_labels=true and corruption={self.corruption}: set one of them"
            )

    def clean(self) -> Self | None:
        """Return the same dataset with the true labels; None if this one has them already."""
        if not (self.random_labels or self.corruption in LABELS):
            return None
        made: Any = self  # a dataclass
        return replace(made, corruption="none", random_labels=False)

    def corrupted(self, train: Batch, generator: torch.Generator) -> Batch:
        """Return the training rows with their corruption."""
        kind: Corruption = "random" if self.random_labels else self.corruption
        return corrupt(train, kind, self.fraction, self.classes, generator)


def corrupt(
    batch: Batch, kind: Corruption, fraction: float, classes: int, generator: torch.Generator
) -> Batch:
    """Return the rows with corrupted images (n, c, h, w) or class labels (n,), of the same shapes.

    - random: every label is replaced by a random class;
    - partial: each label is replaced by a random class with probability ``fraction``;
    - shuffled: the labels are permuted;
    - shuffled_pixels: the pixels of all images are permuted in the same way;
    - random_pixels: the pixels of each image are permuted in a way of its own;
    - gaussian: images are noise with the mean and the standard deviation of the images.

    The channels of a pixel stay together.
    """
    x, y = batch
    n, pixels = len(y), x.shape[2:].numel()
    match kind:
        case "random" | "partial":
            drawn = torch.randint(classes, (n,), generator=generator)
            chosen = torch.rand(n, generator=generator) < (1.0 if kind == "random" else fraction)
            y = torch.where(chosen, drawn, y)
        case "shuffled":
            y = y[torch.randperm(n, generator=generator)]
        case "shuffled_pixels":
            x = x.flatten(2)[:, :, torch.randperm(pixels, generator=generator)].view_as(x)
        case "random_pixels":
            order = torch.rand(n, 1, pixels, generator=generator).argsort(2)
            x = x.flatten(2).gather(2, order.expand(-1, x.shape[1], -1)).view_as(x)
        case "gaussian":
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = noise.mul_(x.std()).add_(x.mean())
    return Batch(x, y)
