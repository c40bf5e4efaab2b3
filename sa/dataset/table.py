"""Your own rows, from a table of numbers (.csv, .parquet)."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Gt, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.dataset import _own
from sa.types import STRICT, BadData

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLE = "dataset.path=my.csv dataset.target=COLUMN"


@dataclass(frozen=True, config=STRICT)
class Table(_own.Own):
    """A table: one column is the target, other columns are the inputs, and all hold numbers.

    Integers in the target column are class numbers from 0; other numbers are the numbers to learn.
    Inputs are not scaled here: scale the columns before you save them.

    Args:
        path: the file: .csv with names in the first line, or .parquet. A run is identified by the
            content of the columns, not by the path.
        target: name of the column to predict.
        columns: names of the input columns, in this order; null takes all but the target, in the
            order of the file.
        test: share of the rows that is used for testing: always the same rows, and about the same
            share of every class.
        classes: number of classes; null takes the largest class number + 1.
        sha: hash of the content, 16 hexadecimal digits; it is filled in for you. A file with
            another content is then an error.

    """

    path: str = ""
    target: str = ""
    columns: Annotated[tuple[str, ...], Len(1)] | None = None
    test: _own.Share = 0.2
    classes: Annotated[int, Gt(0)] | None = None
    sha: str = ""

    @model_validator(mode="after")
    def _count(self) -> "Table":
        """Set ``classes`` from the file."""
        self.count()
        return self

    def found(self) -> _own.Content:
        """Return the content of the file; raise MissingData or BadData."""
        file = _own.there(self.path, _EXAMPLE)
        return _read(self.path, _own.stamp([file]), self.target, self.columns, self.test)


@lru_cache(maxsize=1)
def _read(
    path: str, stamp: _own.Stamp, target: str, columns: tuple[str, ...] | None, test: float
) -> _own.Content:
    """Return the content of a file; it is read again if the file has changed."""
    table = _frame(Path(stamp[0][0]), path)
    if columns is None:
        columns = tuple(c for c in table.columns if c != target)
    _there(path, table, target, columns)
    wanted = table[[*columns, target]]
    _numbers(path, wanted)
    inputs = wanted[list(columns)].to_numpy(np.float64)
    labels = wanted[target].dtype.kind in "biu"
    targets = wanted[target].to_numpy(np.int64 if labels else np.float64)
    return _own.content(path, {"inputs": inputs, "targets": targets}, test)


def _frame(file: Path, name: str) -> "pd.DataFrame":
    """Return the table in a file; raise BadData if it cannot be read."""
    import pandas as pd

    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise BadData(f"{name}: expected a file .csv or .parquet")
    try:
        if kind == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file, engine="pyarrow")  # this engine reads numbers exactly
    except (OSError, ValueError) as error:  # pyarrow's and pandas' own errors are ValueErrors
        why = str(error).strip().splitlines()[:1]
        raise BadData(f"{name}: it cannot be read as {kind} ({''.join(why)})") from error
    return table.set_axis([str(c) for c in table.columns], axis=1)


def _there(file: str, table: "pd.DataFrame", target: str, columns: tuple[str, ...]) -> None:
    """Raise BadData if the table lacks a column, or if the columns do not fit together."""
    names = list(table.columns)
    written = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if not target:
        raise BadData(f"{file}: say which column to predict, dataset.target=COLUMN: {written}")
    for name in (target, *columns):
        if name not in names:
            raise BadData(f"{file}: there is no column '{name}'; there are: {written}")
        if names.count(name) > 1:
            raise BadData(f"{file}: two columns are called '{name}'; rename one of them")
    if target in columns:
        raise BadData(f"{file}: '{target}' is the target; take it out of dataset.columns")
    if not columns:
        raise BadData(f"{file}: there is no column beside the target '{target}'; add one")


def _numbers(file: str, table: "pd.DataFrame") -> None:
    """Raise BadData if a column holds text or a number that is not finite."""
    from pandas.api.types import is_numeric_dtype

    text = [c for c in table.columns if not is_numeric_dtype(table[c])]
    if text:
        raise BadData(
            f"{file}: expected numbers; no numbers are in {', '.join(text)}: number the classes of "
            "a target from 0, and choose columns of numbers with 'dataset.columns=[A,B]'"
        )
    for name in table.columns:
        bad = ~np.isfinite(table[name].to_numpy(np.float64, na_value=np.nan))
        if bad.any():
            row = int(np.argmax(bad))
            many = "1 row" if bad.sum() == 1 else f"{bad.sum()} rows"
            value = table[name].to_numpy(np.float64, na_value=np.nan)[row]
            raise BadData(
                f"{file}: column '{name}' has {value} in row {row} (from 0); {many} in all: remove "
                "them, or replace these values by numbers"
            )
