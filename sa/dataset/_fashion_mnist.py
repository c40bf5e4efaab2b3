"""The files of Fashion-MNIST (Xiao et al. 2017): finds them, reads them, checks their content."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.dataset import _idx

if TYPE_CHECKING:
    import numpy as np

FOLDER = "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""

FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""Name of each file -> md5 of its uncompressed content. Every distributor compresses anew."""

URLS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
"""Folders on servers that have the files as .gz."""


def find(root: str | Path) -> list[Path] | None:
    """Return the four files in the order of `FILES`, or None.

    Args:
        root: the folder to look in first; then come ``SA_DATA`` and Debian's folder.

    """
    return _idx.find(_places(root), FILES)


def missing(root: str | Path) -> str:
    """Return the error message for missing files, which says how to get them."""
    tried = ", ".join(str(f.absolute()) for f in _places(root))
    return (
        f"Fashion-MNIST is not on this machine (tried: {tried})\n"
        f"expected the files {', '.join(FILES)}, with or without .gz\n"
        "to get them, type: python -m sa.data fetch fashion_mnist, or install Debian's package: "
        "apt install dataset-fashion-mnist (if they are in another folder: dataset.root=DIR, or "
        "SA_DATA=DIR in the environment)\n"
        f"source: {URLS[0]}\n"
        "use dataset=digits to run offline"
    )


def read(files: Sequence[Path]) -> "list[np.ndarray[Any, Any]]":
    """Return images and labels of the training split, then those of the test split, uint8.

    Args:
        files: the four files, in the order of `FILES`.

    Raises:
        _idx.Damaged: a file has another content than the published one.

    """
    try:
        return [read_file(file, name) for file, name in zip(files, FILES, strict=True)]
    except _idx.Damaged as error:
        raise _idx.Damaged(
            f"{error}; to download it again, type: python -m sa.data fetch fashion_mnist"
        ) from error


def read_file(file: Path, name: str) -> "np.ndarray[Any, Any]":
    """Return the values of the file that has this name in `FILES`; raise _idx.Damaged."""
    return _idx.read(file, _idx.IMAGES if "images" in name else _idx.LABELS, FILES[name])


def _places(root: str | Path) -> list[Path]:
    """Return the folders in which the files may be, each once."""
    folders = [Path(x).expanduser() for x in (root, os.environ.get("SA_DATA")) if x]
    return list(dict.fromkeys(f for x in folders for f in (x, x / FOLDER))) + [DEBIAN]
