"""Your own images, from folders: one folder for each class."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.dataset import _own
from sa.types import STRICT, BadData

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's names for pixels with 8 bits for each channel."""

_EXAMPLE = "dataset.path=DIR, a folder with a folder of images for each class"


@dataclass(frozen=True, config=STRICT)
class Images(_own.Own):
    """The images in a folder that has one folder for each class; classes are numbered by name.

    If the folder has the folders train and test, these are the splits, and each has one folder for
    each class. Images have one grey channel if all of them are grey, otherwise three colours. Every
    channel is standardised by its mean and standard deviation over the training images.

    Args:
        path: the folder. A run is identified by names and bytes of the files, not by the path.
        size: height and width to which every image is resized; null if all have one size already.
        test: share of the images that is used for testing, if there is no folder test: always the
            same images, and about the same share of every class.
        sha: hash of the files, 16 hexadecimal digits; it is filled in for you. A folder with
            another content is then an error.

    """

    path: str = ""
    size: Annotated[int, Gt(0)] | None = None
    test: _own.Share = 0.2
    sha: str = ""

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        """The number of classes: one for each folder."""
        return self.found().classes

    def found(self) -> _own.Content:
        """Return the content of the folder; raise MissingData or BadData."""
        folder = _own.there(self.path, _EXAMPLE, folder=True)
        files = sorted(f for f in folder.rglob("*") if f.is_file() and not _hidden(f, folder))
        return _read(self.path, folder, _own.stamp(files), self.size, self.test)


def _hidden(file: Path, folder: Path) -> bool:
    """Return True if a file is hidden or in a hidden folder."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


@lru_cache(maxsize=1)
def _read(
    path: str, folder: Path, stamp: _own.Stamp, size: int | None, test: float
) -> _own.Content:
    """Return the content of a folder; it is read again if a file has changed."""
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
                    f"the classes are: {', '.join(classes)}"
                )
        arrays[f"{prefix}inputs"] = np.stack([images[f] for f in half])
        arrays[f"{prefix}targets"] = np.array([classes.index(f.parent.name) for f in half])
    content = _own.content(path, arrays, test, _sha(folder, files))
    return replace(_own.standardised(content), classes=len(classes))


def _halves(path: str, folder: Path, files: Sequence[Path]) -> list[list[Path]]:
    """Return the files of both splits, or one list of all files if there are no such folders."""
    for file in files:
        if file.suffix.lower() not in KINDS:
            raise BadData(
                f"{path}: {file.relative_to(folder)} is no image; expected {', '.join(KINDS)}; "
                "remove it"
            )
    named = [x for x in ("train", "test") if (folder / x).is_dir()]
    if len(named) == 1:
        other = "test" if named == ["train"] else "train"
        raise BadData(
            f"{path}: there is a folder {named[0]} and no folder {other}; add it, or put "
            f"the folders of classes directly into {path}"
        )
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
            raise BadData(f"{path}: {what} has no images; add images, or remove the folder")
    return halves


def _pixels(
    path: str, folder: Path, files: Sequence[Path], size: int | None
) -> "dict[Path, np.ndarray[Any, Any]]":
    """Return the pixels of every image by file, (channels, height, width) uint8."""
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
    """Return an image, read completely; raise BadData if it cannot be used."""
    try:
        from PIL import Image
    except ImportError as error:
        raise BadData("images need Pillow: pip install 'sa-lab[images]'") from error
    try:
        with Image.open(file) as image:
            if image.mode not in MODES:
                raise BadData(
                    f"{path}: {file.relative_to(folder)} has pixels of mode {image.mode}; save it "
                    "with 8 bits for each channel"
                )
            image.load()
            return image.copy()
    except BadData:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadData(
            f"{path}: {file.relative_to(folder)} is damaged, or no image; replace or remove it"
        ) from error


def _sha(folder: Path, files: Sequence[Path]) -> str:
    """Return a hash of the names and bytes of files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        total.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()[:16]
