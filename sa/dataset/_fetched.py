"""Data that ``python -m sa.data fetch`` has written: one .npz for all splits, which a run reads."""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sa.dataset import _npz, _own
from sa.types import BadData, MissingData

TEST = 0.2
"""Share of the training split that is kept for testing if there is no test split."""

_AGAIN = "delete it and fetch it again"


class Fetched(_own.Own):
    """A dataset of a library, read from the file that was fetched; the library is not needed.

    A subclass is a dataclass with the settings ``name``, ``train``, ``test``, ``root``, ``sha``.
    Images are standardised: every channel has mean 0 and deviation 1 over the training images.
    """

    library: ClassVar[str]

    if TYPE_CHECKING:
        name: str
        train: str
        test: str | None
        root: str

    @property
    def path(self) -> str:  # type: ignore[override]
        """The file."""
        return str(place(self.library, self.name, self.root))

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        """The number of classes; None if the targets are numbers."""
        return self.found().classes

    def found(self) -> _own.Content:
        """Return the content of the file; raise MissingData or BadData."""
        if not self.name:
            raise BadData(
                f"type which, dataset.name=NAME, after python -m sa.data fetch {self.library}:NAME"
            )
        file = place(self.library, self.name, self.root)
        if not file.is_file():
            raise MissingData(
                f"{self.name} is not on this machine: there is no file {file}\n"
                f"to get it: python -m sa.data fetch {self.library}:{self.name} (another place: "
                "dataset.root=DIR, or SA_DATA=DIR in the environment)\n"
                "use dataset=digits to run offline"
            )
        return _read(str(file), _own.stamp([file]), self.train, self.test)


def place(library: str, name: str, root: str | Path) -> Path:
    """Return the file of a dataset of a library; raise BadData if no dataset can have this name."""
    if not re.fullmatch(r"[\w.-]+([/:][\w.-]+)*", name):
        raise BadData(f"name={name!r}: expected letters, digits and . - _ / :")
    file = name.replace("/", "--").replace(":", "---")
    return Path(root).expanduser() / library / f"{file}.npz"


def splits(file: Path) -> list[str]:
    """Return the names of the splits of a file."""
    found: list[str] = []

    def wanted(names: list[str]) -> dict[str, str]:
        found.extend(sorted({name.rpartition("_")[0] for name in names}))
        return {}

    _npz.read(file, str(file), wanted, _AGAIN)
    return found


@lru_cache(maxsize=1)
def _read(path: str, stamp: _own.Stamp, train: str, test: str | None) -> _own.Content:
    def wanted(names: list[str]) -> dict[str, str]:
        found = {}
        for prefix, split in zip(_own.SPLITS, (train, test), strict=True):
            for kind in ("inputs", "targets") if split is not None else ():
                if f"{split}_{kind}" not in names:
                    raise BadData(_no_split(path, str(split), names))
                found[f"{split}_{kind}"] = f"{prefix}{kind}"
        return found

    arrays = _npz.read(Path(path), path, wanted, _AGAIN)
    content = _own.content(path, arrays, TEST)
    if arrays["inputs"].dtype != np.uint8 or arrays["inputs"].ndim != 4:
        return content
    return _own.standardised(content)


def _no_split(path: str, split: str, names: list[str]) -> str:
    there = sorted({name.rpartition("_")[0] for name in names})
    return (
        f"{path}: there is no split {split}; there are: {', '.join(there)}. Set dataset.train and "
        "dataset.test; dataset.test=null keeps a fifth of the training rows for testing"
    )
