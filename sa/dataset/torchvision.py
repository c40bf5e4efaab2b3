"""Images of torchvision.datasets, after ``python -m sa.data fetch torchvision:NAME``."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from sa.dataset import _fetched
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class Torchvision(_fetched.Fetched):
    """A dataset of torchvision with a class for each image, from a file that was fetched before.

    A run downloads nothing and needs no torchvision. Every channel is standardised by its mean and
    standard deviation over the training images.

    Args:
        name: the class in torchvision.datasets, such as CIFAR100.
        train: split to train on.
        test: split to test on; null keeps a fifth of the training images for testing: always the
            same images, of every class about the same share.
        root: folder that the data were fetched to; it is no part of a run's identity.
        sha: hash of the content, 16 hexadecimal digits, filled in for you. A file with another
            content is refused.

    """

    library: ClassVar[str] = "torchvision"
    name: str = ""
    train: str = "train"
    test: str | None = "test"
    root: str = "data"
    sha: str = ""
