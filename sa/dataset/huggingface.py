"""Data of the Hugging Face hub, after ``python -m sa.data fetch huggingface:NAME``."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from sa.dataset import _fetched
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class HuggingFace(_fetched.Fetched):
    """A dataset of the hub, of images or numbers, from a file that was fetched before.

    A run downloads nothing and needs no library of Hugging Face. Every channel of images is
    standardised by its mean and standard deviation over the training images; numbers are used as
    they are.

    Args:
        name: of the dataset in the hub, such as ylecun/mnist; OWNER/NAME:CONFIG if it has
            configurations.
        train: split to train on.
        test: split to test on; null keeps a fifth of the training rows for testing: always the same
            rows, of every class about the same share.
        root: folder that the data were fetched to; it is no part of a run's identity.
        sha: hash of the content, 16 hexadecimal digits, filled in for you. A file with another
            content is refused.

    """

    library: ClassVar[str] = "huggingface"
    name: str = ""
    train: str = "train"
    test: str | None = "test"
    root: str = "data"
    sha: str = ""
