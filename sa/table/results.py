"""Results of a table of runs as numbers, and the gradient that they are compared with."""

import math
from typing import TYPE_CHECKING

from sa.table import names

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

REFERENCES = "analysis.alignment.references."
"""The settings of the reference gradients of ``analysis=alignment`` begin with this."""


def numbers(table: "pd.DataFrame", column: str) -> "pd.Series":
    """Return a column as floats; NaN for text, and everywhere if there is no such column."""
    import pandas as pd

    given = table[column] if column in table else pd.Series(math.nan, table.index)
    return pd.to_numeric(given, errors="coerce").astype(float)


def relative(table: "pd.DataFrame", column: str, loss: str = "value") -> "pd.Series":
    """Return a result in the unit that `names` gives it: a decrease is divided by the loss.

    Args:
        table: the runs, or the steps of a training.
        column: the result.
        loss: the column that holds the loss; without such a column a decrease stays absolute.

    """
    known = names.NAMES.get(column)
    divided = known is not None and known.relative and loss in table
    return numbers(table, column) / numbers(table, loss) if divided else numbers(table, column)


def finite(column: "pd.Series") -> "pd.Series":
    """Return the finite numbers of a column."""
    found = column.dropna().astype(float)
    return found[found.abs() < math.inf]


def half_width(values: "np.ndarray | pd.Series") -> float:
    """Return the half-width of the 95 % confidence interval of a mean, by Student's t.

    It is NaN for fewer than two values.
    """
    from scipy import stats

    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * stats.sem(values)) if n > 1 else math.nan


def first_reference(table: "pd.DataFrame", name: str = "") -> str | None:
    """Return the prefix of the settings of a reference gradient; None if no run has it.

    Args:
        table: the runs.
        name: the reference, a key of ``analysis.alignment.references``; by default the first one.

    """
    targets = (str(c) for c in table if str(c).startswith(REFERENCES + name))
    targets = (c for c in targets if c.endswith("._target_") and table[c].notna().any())
    found = next(targets, None)
    return None if found is None else found.removesuffix("_target_")


def reference(table: "pd.DataFrame", name: str = "") -> str:
    """Return the short name of a reference gradient, ``CDG (eps 0.1)``.

    It is ``the reference`` if runs have different ones, and the name given, or CDG, if no run has
    one.

    Args:
        table: the runs.
        name: the reference, as in `first_reference`.

    """
    prefix = first_reference(table, name)
    if prefix is None:
        return name or names.reference(None)
    pairs = zip(table[f"{prefix}_target_"], numbers(table, f"{prefix}epsilon"), strict=True)
    found = {names.reference(target, eps) for target, eps in pairs if isinstance(target, str)}
    return found.pop() if len(found) == 1 else "the reference"
