"""Arrays of an .npz file; nothing but numbers and text is ever loaded."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sa.dataset._own import Array
from sa.types import BadData


def read(
    file: Path, name: str, wanted: Callable[[list[str]], dict[str, str]], remedy: str
) -> dict[str, Array]:
    """Return the wanted arrays of a file.

    Args:
        file: the file.
        name: its name in error messages.
        wanted: returns, from all names in the file, the wanted ones, each -> its name here.
        remedy: a command that makes such a file, for error messages.

    Raises:
        BadData: it is no .npz file, or an array holds Python objects.

    """
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadData(f"{name}: it holds one array; expected several by name: {remedy}")
            names = wanted(archive.files)
            return {here: _array(archive, key, name) for key, here in names.items()}
    except BadData:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(
            f"{name}: it is damaged, or no .npz file without Python objects; make one with: "
            f"{remedy}"
        ) from error


def _array(archive: "np.lib.npyio.NpzFile", key: str, file: str) -> Array:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise BadData(
            f"{file}: {key} holds Python objects, which are never loaded; save an array of numbers"
        ) from error
