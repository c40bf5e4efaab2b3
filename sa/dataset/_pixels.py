"""Mean and standard deviation of images of bytes, from exact sums of integers."""

import math

import torch
from torch import Tensor

from sa.params import ranges


def sums(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums and the sums of squares over images (n, ...) uint8, (...) int64 each."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for start, stop in ranges(len(images), 4096):
        part = images[start:stop].int()
        total += part.sum(0)
        squares += part.square_().sum(0)
    return total, squares


def moments(images: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of images (n, channels, height, width) uint8, float64.

    The deviation of a constant pixel is 1, so that it becomes 0 when the images are standardised.

    Args:
        images: the images.
        pooled: True for one mean of each channel, (channels, 1, 1); False for one of each pixel.

    """
    total, squares = sums(images)
    n = len(images)
    if pooled:
        n *= total[0].numel()
        total, squares = (x.sum((1, 2), keepdim=True) for x in (total, squares))
    pairs = zip(total.flatten().tolist(), squares.flatten().tolist(), strict=True)
    # n * squares of a channel needs more than 64 bits; the integers of Python have no limit
    std = [math.sqrt(n * square - one * one) / n or 1.0 for one, square in pairs]
    return total.double() / n, torch.tensor(std, dtype=torch.float64).view_as(total)
