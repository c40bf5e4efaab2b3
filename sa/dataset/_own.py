"""Rows from the user's own files: hashes, checks and splits; errors name the file and the row."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Lt

from sa.params import stream
from sa.types import BadData, Batch, MissingData, Splits

Array = np.ndarray[Any, Any]
Stamp = tuple[tuple[str, int, int], ...]
Share = Annotated[float, Gt(0), Lt(1)]

SPLITS = ("", "test_")
"""Prefixes of the names of the arrays of the training split and of the test split."""


@dataclass(frozen=True)
class Content:
    """The content of files.

    Args:
        splits: training and test rows.
        classes: number of classes; None if the targets are numbers.
        sha: hash of the content, 16 hexadecimal digits.
        largest: a text that says where the largest class number is; the dtype if the targets are
            numbers.
        scale: mean and deviation that images were standardised with; None for other rows.

    """

    splits: Splits
    classes: int | None
    sha: str
    largest: str
    scale: tuple[torch.Tensor, torch.Tensor] | None = None


class Own:
    """Base class of datasets that read rows, their shape and their classes from a user's files.

    A subclass is a dataclass with the settings ``path``, ``sha`` and ``classes``.
    """

    if TYPE_CHECKING:
        path: str
        sha: str
        classes: int | None

    def found(self) -> Content:
        """Return the content of the files, without a check of ``sha``.

        Raises:
            MissingData: the files are not on this machine.
            BadData: the files cannot be used.

        """
        raise NotImplementedError

    def count(self) -> None:
        """Set ``classes``, if it is null, to the number of classes in the files.

        Missing or wrong files are not an error here; `check` and the other methods raise it.
        """
        try:
            classes = self.classes or self.found().classes
        except (MissingData, BadData):
            return
        object.__setattr__(self, "classes", classes)

    def content(self) -> Content:
        """Return the content of the files; raise BadData if its hash is not ``sha``."""
        found = self.found()
        if self.sha and found.sha != self.sha:
            raise BadData(
                f"{self.path}: its content is {found.sha}, this run's was {self.sha}; restore the "
                "old file, or start a new run with the new file: leave out dataset.sha"
            )
        if self.classes and not found.classes:
            raise BadData(
                f"{self.path}: targets are {found.largest} and classes={self.classes}; class "
                "numbers are integers: save targets.astype('int64'), or set classes=null to learn "
                "the numbers"
            )
        if found.classes and not self.classes:
            raise BadData(
                f"{self.path}: it could not be read at the start of the run; repeat the command"
            )
        if found.classes and self.classes and found.classes > self.classes:
            raise BadData(
                f"{self.path}: {found.largest}; class numbers of classes={self.classes} are 0 to "
                f"{self.classes - 1}"
            )
        return found

    def digest(self) -> str:
        """Return the hash of the content."""
        return self.found().sha

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, read from the files."""
        return tuple(self.content().splits.train.inputs.shape[1:])

    @property
    def outputs(self) -> int | None:
        """The number of numbers in a target; None if the targets are classes."""
        targets = self.content().splits.train.targets
        return None if targets.dim() == 1 else targets.shape[1]

    @property
    def rows(self) -> int:
        """The number of training rows."""
        return self.content().splits.train.rows

    def scale(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return mean and deviation that images were standardised with; None for other rows."""
        return self.content().scale

    def check(self) -> None:
        """Raise MissingData if the files do not exist, BadData if they cannot be used."""
        self.content()

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits, float64; the generator is not used."""
        return self.content().splits


def stamp(files: Iterable[Path]) -> Stamp:
    """Return name, size and modification time of each file; they change if a file changes."""
    stats = ((str(file), file.stat()) for file in files)
    return tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats)


def there(path: str, example: str, folder: bool = False) -> Path:
    """Return the path as a `Path`; raise MissingData or BadData if there is no such file.

    Args:
        path: the path that was typed.
        example: what to type, for error messages.
        folder: True if it must be a folder.

    """
    if not path:
        raise BadData(f"type where your data are: {example}, or use dataset=digits")
    place = Path(path).expanduser()
    if not (place.is_dir() if folder else place.is_file()):
        kind = "folder" if folder else "file"
        raise MissingData(
            f"there is no {kind} {path}; type the path of a {kind} that exists, e.g. {example}, or "
            "use dataset=digits, which needs no files"
        )
    return place


def sha(arrays: Mapping[str, Array]) -> str:
    """Return a hash of arrays and their names, 16 hexadecimal digits.

    The same arrays have the same hash in every file format: it is sha256 over name, dtype, shape
    and bytes of each array, sorted by name. Bytes are little-endian and in C order.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(f"{name} {array.dtype.str} {arrays[name].shape}\n".encode())
        total.update(array.data.cast("B") if array.size else b"")
    return total.hexdigest()[:16]


def content(file: str, arrays: Mapping[str, Array], test: float, digest: str = "") -> Content:
    """Return the rows of arrays, checked and split.

    Args:
        file: name of the source, for error messages.
        arrays: ``inputs`` and ``targets``; ``test_inputs`` and ``test_targets`` if there are any.
        test: share of the rows that become the test split if there are no test arrays.
        digest: hash of the content; empty to compute it from the arrays.

    Raises:
        BadData: the rows cannot be used.

    """
    for name, array in arrays.items():
        _numbers(file, name, array)
    for prefix in SPLITS:
        if f"{prefix}inputs" in arrays:
            _rows(file, prefix, arrays)
    x, y = arrays["inputs"], arrays["targets"]
    labels = y.dtype.kind in "biu"
    if labels:
        _labels(file, arrays)
    if "test_inputs" in arrays:
        _alike(file, arrays, labels)
        halves = [(arrays[f"{p}inputs"], arrays[f"{p}targets"]) for p in SPLITS]
    else:
        if len(x) < 2:
            raise BadData(
                f"{file}: 1 row cannot be split into training and test rows; give at least 2"
            )
        halves = [(x[rows], y[rows]) for rows in split(y if labels else None, len(y), test)]
        if labels:
            _known(file, "", halves[1][1], halves[0][1])
    splits = Splits(*(Batch(_inputs(x), _targets(y)) for x, y in halves))
    digest = digest or sha(arrays)
    if not labels:
        return Content(splits, None, digest, str(y.dtype))
    row = int(y.argmax())
    return Content(splits, int(y[row]) + 1, digest, f"targets row {row} is {y[row]}")


def split(labels: Array | None, n: int, test: float) -> tuple[Array, Array]:
    """Return the numbers of the training rows and of the test rows, the same at every call.

    Args:
        labels: class numbers (n,); about the same share of every class is then drawn for testing.
            None if the targets are numbers.
        n: number of all rows.
        test: share of the rows that is drawn for testing.

    """
    order = torch.randperm(n, generator=stream(0, "split")).numpy()
    places = (np.arange(n) + 0.5) / n
    if labels is not None:
        drawn = labels[order]
        for label in np.unique(drawn):
            own = drawn == label
            places[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    order = order[np.argsort(places, kind="stable")]
    few = min(max(1, round(test * n)), n - 1)
    return np.sort(order[:-few]), np.sort(order[-few:])


def standardised(content: Content) -> Content:
    """Return the content with channels of mean 0 and deviation 1 over the training images."""
    train = content.splits.train.inputs
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    std[std == 0] = 1
    splits = Splits(*(Batch((b.inputs - mean) / std, b.targets) for b in content.splits))
    return replace(content, splits=splits, scale=(mean[0], std[0]))


def _numbers(file: str, name: str, array: Array) -> None:
    """Raise BadData if an array does not hold finite numbers alone."""
    if array.dtype.kind not in "fiub":
        what = {"U": "text", "S": "text", "c": "complex numbers"}.get(array.dtype.kind)
        raise BadData(f"{file}: {name} holds {what or array.dtype}; expected numbers")
    if array.ndim and not len(array):
        raise BadData(f"{file}: {name} has no rows")
    if array.dtype.kind != "f" or not array.ndim:
        return
    bad = ~np.isfinite(array)
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(array), -1).any(1))
        at = tuple(int(i) for i in np.argwhere(bad[rows[0]])[0])
        where = f" at {at}" if at else ""
        many = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
        raise BadData(
            f"{file}: {name} row {rows[0]} has {array[rows[0]][at]}{where}; {many} in all: remove "
            "them, or replace these values by numbers"
        )


def _rows(file: str, prefix: str, arrays: Mapping[str, Array]) -> None:
    """Raise BadData if inputs and targets of a split are not rows, or not equally many."""
    inputs, targets = (f"{prefix}{x}" for x in ("inputs", "targets"))
    x, y = arrays[inputs], arrays[targets]
    for name, array in ((inputs, x), (targets, y)):
        if not array.size or not array.ndim:
            raise BadData(f"{file}: {name} has shape {array.shape}; expected rows of numbers")
    if len(x) != len(y):
        raise BadData(
            f"{file}: {inputs} has {len(x)} rows, {targets} has {len(y)}; expected one target for "
            "each input"
        )
    if y.dtype.kind in "biu" and y.ndim > 1:
        instead = f"save {targets}[:, 0]" if y.shape[1:] == (1,) else "one class a row"
        raise BadData(
            f"{file}: {targets} are integers of shape {y.shape}; class numbers have shape "
            f"({len(y)},): {instead}, or save numbers to learn as floats"
        )
    if y.ndim > 2:
        raise BadData(f"{file}: {targets} has shape {y.shape}; expected (rows, numbers of a row)")


def _labels(file: str, arrays: Mapping[str, Array]) -> None:
    """Raise BadData if labels are not class numbers, or if only test rows have them."""
    named = {f"{p}targets": arrays[f"{p}targets"] for p in SPLITS if f"{p}targets" in arrays}
    for name, y in named.items():
        if y.dtype.kind not in "biu":
            raise BadData(
                f"{file}: targets are class numbers, {name} are {y.dtype}; save both as integers"
            )
        if y.min() < 0:
            row = int(np.argmax(y < 0))
            raise BadData(f"{file}: {name} row {row} is {y[row]}; class numbers begin at 0")
    if "test_targets" in named:
        _known(file, "test_targets", named["test_targets"], named["targets"])


def _known(file: str, name: str, test: Array, train: Array) -> None:
    """Raise BadData if a test row has a label that no training row has.

    Args:
        file: name of the source, for error messages.
        name: name of the array of test labels; empty if the test rows were drawn from all rows.
        test: labels of the test rows.
        train: labels of the training rows.

    """
    new = ~np.isin(test, train)
    if new.any():
        row = int(np.argmax(new))
        if name:
            raise BadData(
                f"{file}: {name} row {row} is {test[row]}, which no training row has; remove the "
                "row, or add training rows of this class"
            )
        raise BadData(
            f"{file}: every row of class {test[row]} was drawn for testing; set a smaller "
            "dataset.test, or save test rows of your own"
        )


def _alike(file: str, arrays: Mapping[str, Array], labels: bool) -> None:
    """Raise BadData if test rows and training rows differ in shape or in kind."""
    for name in ("inputs", "targets"):
        one, other = arrays[name].shape[1:], arrays[f"test_{name}"].shape[1:]
        if one != other:
            raise BadData(
                f"{file}: rows of {name} have shape {one}, of test_{name} {other}; expected one"
            )
    if not labels and arrays["test_targets"].dtype.kind != "f":
        kinds = arrays["targets"].dtype, arrays["test_targets"].dtype
        raise BadData(
            f"{file}: targets are {kinds[0]}, test_targets are {kinds[1]}; expected the same"
        )


def _inputs(array: Array) -> torch.Tensor:
    """Return inputs in float64; an array (n,) becomes (n, 1)."""
    x = torch.from_numpy(array.astype(np.float64))
    return x.unsqueeze(1) if x.dim() == 1 else x


def _targets(array: Array) -> torch.Tensor:
    """Return class numbers (n,) int64, or numbers (n, outputs) float64."""
    return torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "biu" else _inputs(array)
