"""Files of the idx format, in which MNIST and its successors are distributed; plain or .gz.

A file holds the bytes 0 0, the number of the type (8: uint8), the number of dimensions, each size
as a big-endian 32-bit integer, and then the values (LeCun et al. 1998).
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

IMAGES, LABELS = 3, 1
"""How many dimensions a file of images and a file of labels have."""


class Damaged(ValueError):
    """Raised for a file that exists and is not a valid idx file; the message names it."""


def find(folders: Iterable[Path], names: Iterable[str]) -> list[Path] | None:
    """Return the files of the first folder that has all of them, as .gz or plain; else None."""
    names = list(names)
    for folder in folders:
        found = [next((f for f in _spellings(folder / x) if f.is_file()), None) for x in names]
        files = [f for f in found if f]
        if len(files) == len(names):
            return files
    return None


def read(path: Path, dimensions: int, md5: str = "") -> "np.ndarray[Any, Any]":
    """Return the values of a file, uint8.

    Args:
        path: the file; it is decompressed if its name ends with .gz.
        dimensions: how many dimensions it must have: `IMAGES` or `LABELS`.
        md5: md5 of the uncompressed content; empty for any.

    Raises:
        Damaged: the content is something else.

    """
    import numpy as np

    content = uncompressed(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise Damaged(f"{path} is no idx file: it does not begin with two zero bytes")
    if content[2] != 8:
        raise Damaged(f"{path} has values of type {content[2]}; expected 8, unsigned bytes")
    if content[3] != dimensions:
        raise Damaged(f"{path} has {content[3]} dimensions; expected {dimensions}")
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        text = " x ".join(map(str, shape))
        raise Damaged(
            f"{path} has {len(content)} bytes; its header announces {text} values, which take "
            f"{start + math.prod(shape)} bytes"
        )
    if md5 and (found := hashlib.md5(content).hexdigest()) != md5:
        raise Damaged(f"{path} has other content: its md5, uncompressed, is {found}, not {md5}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def uncompressed(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if its name ends with .gz; raise Damaged."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def _spellings(path: Path) -> list[Path]:
    """Return the names that a file may have: plain or .gz, and with a dot before idx."""
    dotted = path.with_name(path.name.replace("-idx", ".idx"))
    return [x for p in (path, dotted) for x in (p, p.with_name(f"{p.name}.gz"))]
