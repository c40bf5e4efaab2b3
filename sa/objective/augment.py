"""Random crops and mirror images of the images of a training step."""

from collections.abc import Callable
from dataclasses import dataclass as plain
from typing import Annotated

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.params import stream
from sa.types import STRICT, Batch

Scale = tuple[Tensor, Tensor]
"""The mean and the deviation that images were standardised with; each fits (channels, h, w)."""


@dataclass(frozen=True, config=STRICT)
class Augment:
    """Random changes of every image of a training step.

    The mean over all (2 crop + 1)^2 crops is the box mean of the image with its black border.

    Args:
        crop: number of black pixels that each side gets before a part of the old size is cut out,
            at offsets uniform in 0 to 2 crop; 0 for no crop.
        flip: True to replace half of the images, drawn at random, by their mirror images.

    """

    crop: Annotated[int, Ge(0)] = 0
    flip: bool = False

    def __call__(self, images: Tensor, scale: Scale, generator: torch.Generator) -> Tensor:
        """Return changed images (n, channels, h, w), standardised as the given ones are.

        A pixel's own mean and deviation belong to its place, so they are undone before an image
        moves and applied again afterwards.

        Args:
            images: the images, standardised; black was 0 before that.
            scale: mean and deviation of the standardisation.
            generator: draws the offsets and the flips, on the CPU.

        """
        n, channels, height, width = images.shape
        mean, std = (x.to(images) for x in scale)
        moves = max(mean.shape[-2:]) > 1
        raw = images * std + mean if moves else images
        black = torch.zeros_like(mean[:, :1, :1]) if moves else -mean / std
        p = self.crop
        wide = black.expand(n, channels, height + 2 * p, width + 2 * p).clone()
        wide[:, :, p : p + height, p : p + width] = raw
        top, left = torch.randint(2 * p + 1, (2, n, 1), generator=generator)
        rows, columns = top + torch.arange(height), left + torch.arange(width)
        if self.flip:
            flipped = torch.rand(n, 1, generator=generator) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        at = torch.arange(n).view(n, 1, 1, 1), torch.arange(channels).view(1, channels, 1, 1)
        places = (*at, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width))
        moved = wide[tuple(x.to(images.device) for x in places)]
        return (moved - mean) / std if moves else moved


@plain(frozen=True, eq=False)
class Augmented:
    """The minibatch of every step with its images changed at random.

    Args:
        batches: returns the rows of a step.
        augment: changes their images.
        scale: mean and deviation of the images' standardisation.
        seed: seed of the changes, which depend on the seed and the step alone.

    """

    batches: Callable[[int], Batch]
    augment: Augment
    scale: Scale
    seed: int

    def __call__(self, step: int) -> Batch:
        """Return the changed minibatch of a step; every call with this step returns the same."""
        inputs, targets = self.batches(step)
        generator = stream(self.seed, "augment", step)
        return Batch(self.augment(inputs, self.scale, generator), targets)
