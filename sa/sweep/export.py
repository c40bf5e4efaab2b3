"""The tables of a sweep as CSV, and the key results as LaTeX."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.record import files
from sa.sweep.display import Cell, Row, counted, over_seeds, width_text

if TYPE_CHECKING:
    import pandas as pd

ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def export(
    folder: Path,
    table: "pd.DataFrame",
    over: "pd.DataFrame",
    labels: Sequence[str],
    columns: Sequence[str],
) -> list[Path]:
    """Write results.csv and results_over_seeds.parquet, .csv and .tex; return their paths.

    Args:
        folder: folder of the sweep.
        table: one row for each run.
        over: the table over seeds, as `table.aggregate` returns it.
        labels: the label of each run, for the rows of the LaTeX table.
        columns: the results that the LaTeX table shows.

    """
    names, rows = over_seeds(table, labels, columns)
    paths = [folder / "results.csv"]
    paths += [folder / f"results_over_seeds.{end}" for end in ("parquet", "csv", "tex")]
    files.write_text(paths[0], _csv(table))
    files.write_atomic(paths[1], lambda temp: over.to_parquet(temp, index=False))
    files.write_text(paths[2], _csv(over))
    files.write_text(paths[3], latex(names, rows))
    return paths


def _csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV: lists as JSON, missing values as empty fields."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(table.columns)
    out.writerows([[_field(v) for v in row] for row in table.itertuples(index=False, name=None)])
    return text.getvalue()


def _field(value: Any) -> Any:
    """Return a value as a field of a CSV file."""
    import numpy as np

    if isinstance(value, list | np.ndarray):
        return json.dumps([None if x != x else float(x) for x in value])
    return "" if value is None or value != value else value


def latex(names: Sequence[str], rows: Sequence[Row]) -> str:
    r"""Return a ``tabular`` for ``\usepackage{booktabs}``: means and 95 % intervals over seeds."""
    empty = [not any(row.cells[k].n for row in rows) for k in range(len(names))]
    shown = [k for k in range(len(names)) if not empty[k]]
    head = ["configuration", "runs", *(names[k] for k in shown)]
    lines = [
        "% \\usepackage{booktabs}; mean over seeds, +- the half-width of its 95 % interval",
        "\\begin{tabular}{ll" + "r" * len(shown) + "}",
        "\\toprule", " & ".join(map(_escaped, head)) + r" \\", "\\midrule",
    ]  # fmt: skip
    for row in rows:
        cells = [_number(row.cells[k], row) for k in shown]
        lines.append(" & ".join([_escaped(row.label), _escaped(counted(row)), *cells]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _number(cell: Cell, row: Row) -> str:
    """Return a cell in LaTeX, with n if it is not of all runs."""
    if not cell.n:
        return "--"
    if cell.reference:
        return f"${_power(f'{cell.mean:.4g}')}$ (reference)"
    half = f" \\pm {_power(width_text(cell.half))}" if cell.half == cell.half else ""
    n = f" ($n={cell.n}$)" if cell.n < row.runs else ""
    return f"${_power(f'{cell.mean:.4g}')}{half}${n}"


def _power(number: str) -> str:
    """Return a number in LaTeX, with 1e-05 as a power of ten."""
    mantissa, _, exponent = number.partition("e")
    return f"{mantissa} \\cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def _escaped(text: str) -> str:
    return re.sub(r"[\\&%$#_{}~^]", lambda m: ESCAPES[m.group()], text)
