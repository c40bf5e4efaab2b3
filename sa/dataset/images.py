"""Images of your own, from folders: one folder a class."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.dataset import _own
from sa.types import STRICT, BadData, Batch, Splits

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's names for pixels of 8 bits a channel."""

_EXAMPLE = "dataset.path=DIR, a folder with a folder of images for each class"


@dataclass(frozen=True, config=STRICT)
class Images(_own.Own):
    """The images of a folder that has a folder for each class; their sorted names number them.

    If there are the folders train and test, these have the folders of classes, and are the splits.
    Images are grey if all are, else of three colours; every channel is standardised by its mean and
    standard deviation over the training images.

    Args:
        path: the folder. It is no part of a run's identity: the names and bytes of the files are.
        size: height and width to resize every image to; null expects images of one size.
        test: share of the images that is kept for testing, if there is no folder test: always the
            same images, of every class about the same share.
        sha: hash of the files, 16 hexadecimal digits, filled in for you. A folder with another
            content is refused.

    """

    path: str = ""
    size: Annotated[int, Gt(0)] | None = None
    test: _own.Share = 0.2
    sha: str = ""

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        """Number of folders."""
        return self.found().classes

    def found(self) -> _own.Content:
        """Return what the folder holds; raise MissingData or BadData."""
        folder = _own.there(self.path, _EXAMPLE, folder=True)
        files = sorted(f for f in folder.rglob("*") if f.is_file() and not _hidden(f, folder))
        return _read(self.path, folder, _own.stamp(files), self.size, self.test)


def _hidden(file: Path, folder: Path) -> bool:
    """Return whether a file, or a folder on the way to it, is hidden."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


@lru_cache(maxsize=1)
def _read(
    path: str, folder: Path, stamp: _own.Stamp, size: int | None, test: float
) -> _own.Content:
    files = [Path(name) for name, *_ in stamp]
    halves = _halves(path, folder, files)
    classes = sorted({f.parent.name for f in halves[0]})
    images = _pixels(path, folder, files, size)
    arrays: dict[str, Any] = {}
    for prefix, half in zip(_own.SPLITS, halves, strict=False):
        for file in half:
            if file.parent.name not in classes:
                raise BadData(
                    f"{path}: {file.relative_to(folder)}: no training image is of this class; "
                    f"there are: {', '.join(classes)}"
                )
        arrays[f"{prefix}inputs"] = np.stack([images[f] for f in half])
        arrays[f"{prefix}targets"] = np.array([classes.index(f.parent.name) for f in half])
    content = _own.content(path, arrays, test, _sha(folder, files))
    return _own.Content(_standardised(content.splits), len(classes), content.sha, content.largest)


def _halves(path: str, folder: Path, files: Sequence[Path]) -> list[list[Path]]:
    """Return the files of both splits, or all files if there are no folders of splits."""
    for file in files:
        if file.suffix.lower() not in KINDS:
            raise BadData(
                f"{path}: {file.relative_to(folder)} is no image; expected {', '.join(KINDS)}"
            )
    named = [x for x in ("train", "test") if (folder / x).is_dir()]
    if len(named) == 1:
        other = "test" if named == ["train"] else "train"
        raise BadData(f"{path}: there is a folder {named[0]} and no folder {other}")
    roots = [folder / x for x in named] or [folder]
    halves = [[f for f in files if f.is_relative_to(root)] for root in roots]
    for root, half in zip(roots, halves, strict=True):
        for file in half:
            if file.parent.parent != root:
                raise BadData(
                    f"{path}: {file.relative_to(folder)} does not lie in the folder of a class: "
                    f"expected {(root / 'CLASS').relative_to(folder)}/{file.name}"
                )
        empty = [d.name for d in sorted(root.iterdir()) if d.is_dir() and not d.name.startswith(".")
                 and not any(f.parent == d for f in half)]  # fmt: skip
        if empty or not half:
            what = f"the folder {empty[0]}" if empty else f"the folder {root.name}"
            raise BadData(f"{path}: {what} has no images")
    return halves


def _pixels(
    path: str, folder: Path, files: Sequence[Path], size: int | None
) -> "dict[Path, np.ndarray[Any, Any]]":
    """Return the pixels of every image, (channels, height, width) uint8."""
    images = {file: _opened(path, folder, file) for file in files}
    mode = "L" if all(image.mode in ("1", "L") for image in images.values()) else "RGB"
    first = next(iter(images.items()))
    found = {}
    for file, image in images.items():
        if size is None and image.size != first[1].size:
            one, other = (f"{f.relative_to(folder)} is {i.size[1]}x{i.size[0]}"
                          for f, i in (first, (file, image)))  # fmt: skip
            raise BadData(f"{path}: {one}, {other}; set one size for all, e.g. dataset.size=32")
        image = image.convert(mode)
        if size is not None and image.size != (size, size):
            image = image.resize((size, size))
        pixels = np.asarray(image)
        found[file] = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    return found


def _opened(path: str, folder: Path, file: Path) -> "Image":
    """Return an image, read whole."""
    try:
        from PIL import Image
    except ImportError as error:
        raise BadData("images need Pillow: pip install 'sa-lab[images]'") from error
    try:
        with Image.open(file) as image:
            if image.mode not in MODES:
                raise BadData(
                    f"{path}: {file.relative_to(folder)} has pixels of mode {image.mode}; expected "
                    "8 bits for each channel"
                )
            image.load()
            return image.copy()
    except BadData:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadData(f"{path}: {file.relative_to(folder)} is damaged, or no image") from error


def _sha(folder: Path, files: Sequence[Path]) -> str:
    """Return a hash of the names and bytes of files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        total.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()[:16]


def _standardised(splits: Splits) -> Splits:
    """Return both splits with channels of mean 0 and deviation 1 over the training images."""
    train = splits.train.inputs
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    std[std == 0] = 1
    return Splits(*(Batch((b.inputs - mean) / std, b.targets) for b in splits))
