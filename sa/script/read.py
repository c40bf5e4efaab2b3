"""The table of a recorded sweep, from a script."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sa.record import sweep
from sa.sweep.table import framed

if TYPE_CHECKING:
    import pandas as pd


def read(name: str, root: str | Path | None = None) -> "pd.DataFrame":
    """Return the table of a sweep, one run a row: its settings, its results, its state.

    Nothing is written. ``attrs["settings"]`` and ``attrs["results"]`` name the columns of a kind.

    Args:
        name: of the sweep, as in ``sweeps/NAME``.
        root: the folder of ``runs/`` and ``sweeps/``; None for SA_ROOT, else the current folder.

    Raises:
        RecordError: there is no sweep of this name, or its manifest is damaged.

    """
    where = Path(root if root is not None else os.environ.get("SA_ROOT", "."))
    _, points = sweep.read_manifest(where, name)
    return framed(where, points)
