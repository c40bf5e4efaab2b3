"""Training sets spoilt on purpose: what can be fitted that cannot be learnt (Zhang et al. 2017)."""

from typing import Literal

import torch

from sa.types import Batch

Corruption = Literal[
    "none", "random", "partial", "shuffled", "shuffled_pixels", "random_pixels", "gaussian"
]

LABELS = ("random", "partial", "shuffled")
"""The corruptions of labels; the others are of images."""


def corrupt(
    batch: Batch, kind: Corruption, fraction: float, classes: int, generator: torch.Generator
) -> Batch:
    """Spoil images (n, c, h, w) or class labels (n,); the sizes stay.

    random: every label is drawn anew, uniformly; partial: each is with probability ``fraction``;
    shuffled: labels change places, their counts stay. shuffled_pixels: one permutation of the
    pixels for all images; random_pixels: another for every image; gaussian: noise of the images'
    own mean and standard deviation. Channels of a pixel stay together.
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
