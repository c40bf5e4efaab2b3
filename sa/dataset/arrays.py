"""Your own rows, from arrays in a NumPy file (.npz)."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.dataset import _npz, _own
from sa.types import STRICT, BadData

NEEDS = ("inputs", "targets")
MAY = ("test_inputs", "test_targets")
_EXAMPLE = "dataset.path=my.npz"
_HOW = "np.savez('my.npz', inputs=x, targets=y, test_inputs=a, test_targets=b)"


@dataclass(frozen=True, config=STRICT)
class Arrays(_own.Own):
    """The arrays inputs, targets and, if you have a test split, test_inputs and test_targets.

    Save them with np.savez. Inputs have shape (rows, ...). Integer targets (rows,) are class
    numbers from 0; float targets (rows,) or (rows, outputs) are numbers to learn. The numbers are
    not scaled here: scale them before you save them.

    Args:
        path: the .npz file. A run is identified by the content of the file, not by its path.
        test: share of the rows that is used for testing, if the file has no test arrays: always the
            same rows, and about the same share of every class.
        classes: number of classes; null takes the largest class number + 1.
        sha: hash of the content, 16 hexadecimal digits; it is filled in for you. A file with
            another content is then an error.

    """

    path: str = ""
    test: _own.Share = 0.2
    classes: Annotated[int, Gt(0)] | None = None
    sha: str = ""

    @model_validator(mode="after")
    def _count(self) -> "Arrays":
        """Set ``classes`` from the file."""
        self.count()
        return self

    def found(self) -> _own.Content:
        """Return the content of the file; raise MissingData or BadData."""
        file = _own.there(self.path, _EXAMPLE)
        return _read(self.path, _own.stamp([file]), self.test)


@lru_cache(maxsize=1)
def _read(path: str, stamp: _own.Stamp, test: float) -> _own.Content:
    """Return the content of a file; it is read again if the file has changed."""
    return _own.content(path, read(Path(stamp[0][0]), path), test)


def read(file: Path, name: str) -> dict[str, _own.Array]:
    """Return the arrays of a file, by name; Python objects are never loaded.

    Args:
        file: the file.
        name: name of the file in error messages.

    Raises:
        BadData: the file is not a .npz file, or does not hold the arrays.

    """
    return _npz.read(file, name, lambda names: _named(name, names), _HOW)


def _named(file: str, names: list[str]) -> dict[str, str]:
    """Return the names, each with itself; refuse a file that lacks an array, or has another."""
    lacks = [x for x in NEEDS if x not in names]
    lacks += [x for x in MAY if x not in names and set(MAY) & set(names)]
    if lacks:
        there = ", ".join(names) or "nothing"
        raise BadData(
            f"{file}: there is no {' and no '.join(lacks)}; it holds {there}. Make it with: {_HOW}"
        )
    more = [x for x in names if x not in (*NEEDS, *MAY)]
    if more:
        expected = ", ".join((*NEEDS, *MAY))
        raise BadData(f"{file}: '{more[0]}' is not used; expected the arrays {expected}")
    return dict(zip(names, names, strict=True))
