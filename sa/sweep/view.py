"""The contents of a sweep's page: facts, the table of runs, the table over seeds."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.sweep.display import (
    CHOICES,
    OF_REFERENCE,
    Cell,
    Row,
    displayed,
    is_reference,
    over_seeds,
    width_text,
)
from sa.sweep.label import typed_settings
from sa.sweep.meaning import meaning
from sa.sweep.series import is_number
from sa.sweep.status import counted
from sa.sweep.table import cautions, numeric
from sa.table import names
from sa.table.grouping import varying

if TYPE_CHECKING:
    import pandas as pd

KEYS = (
    "value alignment/cosine alignment/scale descent/best descent/best_heldout descent/ratio "
    "bias_variance/bias2 bias_variance/variance efficiency/at_evals/cosine training/ratio "
    "quant_error/least cost/bops sensitivity_bits/kendall/taylor sensitivity_bits/gain "
    "train/loss train/accuracy test/loss test/accuracy evals seconds"
).split()
"""The results that the page and LaTeX show, if a sweep has them, beside the metric."""

TERMINAL = frozenset(KEYS) - set(
    "value alignment/scale descent/ratio train/accuracy test/loss seconds".split()
)
"""The results that the terminal shows."""

CELLS = 200_000
"""The most cells of columns that the reader can add to the page (about 2 MB)."""


def key_numbers(table: "pd.DataFrame", metric: str | None = None) -> list[str]:
    """Return the results that summaries show: the metric first, if it is a number."""
    found = [k for k in KEYS if k in table and table[k].notna().any()]
    own = metric if metric in table and metric not in CHOICES else None
    if own and table[own].map(is_number).any():
        return [own, *(k for k in found if k != own)]
    return found


def page(
    about: dict[str, Any],
    points: list[dict[str, Any]],
    table: "pd.DataFrame",
    labels: Sequence[str],
) -> dict[str, Any]:
    """Return the values of the page's template.

    Args:
        about: the manifest of the sweep.
        points: points of the sweep.
        table: one row for each run.
        labels: the label of each run.

    """
    settings, results = table.attrs["settings"], table.attrs["results"]
    words = typed_settings(points)
    swept = {k: [w.get(k, "") for w in words] for k in dict.fromkeys(k for w in words for k in w)}
    swept = {k: v for k, v in swept.items() if len(set(v)) > 1}
    lists = {k for k in results if any(isinstance(v, list) for v in table[k])}
    differ = [k for k in settings if k == "seed" or k in varying(table[settings])]
    first = {k: _column(k, k, v) for k, v in swept.items()}
    if not swept:  # without overrides, the settings that vary stand first
        first = {k: _column(k, k, table[k]) for k in settings if table[k].nunique() > 1}
    keys = [k for k in key_numbers(table, about.get("metric")) if k in results]
    keys = keys or [k for k in results if k not in lists][:12]
    more = [k for k in (*differ, *results, "run_id", "commit") if k not in lists and k not in first]
    runs = first | {k: _result(table, k) for k in keys}
    runs["status"] = _column("status", "status", table["status"])
    extra = {k: _result(table, k) for k in more if k not in runs}
    return {
        "description": about.get("description"),
        "command": "python -m sa.run " + shlex.join(map(str, about.get("argv") or [])),
        "created": about.get("created"),
        "counts": counted(list(table["status"])),
        "commits": sorted({c for both in table["commit"].dropna() for c in both.split("+")}),
        "cautions": cautions(table),
        "columns": list(runs.values()),
        "rows": _rows(table, lists, list(runs.values()), labels),
        "seeds": _over_seeds(table, labels, keys),
        "extra": {"runs": _fitting(extra)} | {"seeds": _over_seeds_extra(table, labels, keys)},
    }


def _column(key: str, words: str, values: Any) -> dict[str, Any]:
    """Return a column of the page: its key, name, meaning and cells."""
    about = meaning(key)
    return {"key": key, "words": words, "title": about, "cells": [text(v) for v in values]}


def _result(table: "pd.DataFrame", key: str) -> dict[str, Any]:
    """Return a column of results by its name and in its unit, the reference marked."""
    if key not in names.NAMES:
        return _column(key, key, table[key])
    one = displayed(table, key, every=True)
    column = _column(key, one.words, one.numbers)
    if key in OF_REFERENCE:
        marks = zip(column["cells"], is_reference(table), strict=True)
        column["cells"] = [f"{c} (reference)" if c and own else c for c, own in marks]
    return column


def _rows(
    table: "pd.DataFrame",
    lists: set[str],
    columns: list[dict[str, Any]],
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the rows of the table of runs: cells, and the details of an opened row."""
    settings, results = table.attrs["settings"], table.attrs["results"]
    rows = []
    for i, (_, row) in enumerate(table.iterrows()):
        values = [(k, row[k]) for k in (*settings, *results, "run_id", "commit") if k not in lists]
        detail = "\n".join(f"{k}: {text(v, 10)}" for k, v in values if text(v))
        hidden = ", ".join(k for k in results if k in lists and isinstance(row[k], list))
        detail += f"\n\nin results.parquet as lists: {hidden}" if hidden else ""
        cells = [column["cells"][i] for column in columns]
        seed = f" seed={row['seed']}" if "seed" in settings else ""
        label = f"{labels[i]}{seed}"
        rows.append({"cells": cells, "detail": detail, "run": row["run_id"], "label": label})
    return rows


def _over_seeds(
    table: "pd.DataFrame", labels: Sequence[str], keys: Sequence[str]
) -> dict[str, Any]:
    """Return the table over seeds: columns with their meaning, a row for each configuration."""
    words, rows = over_seeds(table, labels, keys)
    shown = [k for k in range(len(keys)) if any(row.cells[k].n for row in rows)]
    columns = [
        {"key": "configuration", "words": "configuration", "title": "The overrides but the seed."},
        {"key": "runs", "words": "n of runs", "title": meaning("runs")},
        *({"key": keys[k], "words": words[k], "title": _summary(keys[k])} for k in shown),
    ]  # fmt: skip
    lines = [[row.label, _counts(row), *(_mean(row.cells[k], row) for k in shown)] for row in rows]
    return {"columns": columns, "rows": lines}


def _over_seeds_extra(
    table: "pd.DataFrame", labels: Sequence[str], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the columns that the reader can add to the table over seeds."""
    more = [k for k in numeric(table) if k not in keys]
    words, rows = over_seeds(table, labels, more)
    columns = {
        key: {
            "key": key, "words": words[k], "title": _summary(key),
            "cells": [_mean(row.cells[k], row) for row in rows],
        }
        for k, key in enumerate(more) if any(row.cells[k].n for row in rows)
    }  # fmt: skip
    return _fitting(columns)


def _summary(key: str) -> str:
    """Return the meaning of a column over seeds."""
    mean = "Mean over seeds ± the half-width of its 95 % interval (Student's t)."
    how = "Median (least to most) over seeds." if key in CHOICES else mean
    return f"{meaning(key)} {how}".strip()


def _counts(row: Row) -> str:
    """Return how many runs are done, ``4 of 6: 2 diverged``."""
    rest = ", ".join(f"{n} {state}" for state, n in row.states.items() if state != "done")
    return f"{row.states['done']} of {row.runs}" + (f": {rest}" if rest else "")


def _mean(cell: Cell, row: Row) -> str:
    """Return a cell over seeds: ``0.5 ± 0.1 [n=3]``, with n if it is not of all runs."""
    if not cell.n:
        return ""
    if cell.reference:
        return f"{cell.mean:.4g} (reference)"
    n = f" [n={cell.n}]" if cell.n < row.runs else ""
    if cell.half != cell.half:
        ends = f" ({cell.low:.4g} to {cell.high:.4g})" if cell.high > cell.low else ""
        return f"{cell.mean:.4g}{ends}{n}"
    return f"{cell.mean:.4g} ± {width_text(cell.half)}{n}"


def _fitting(columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns that are not empty, as many as fit into the page."""
    filled = [c for c in columns.values() if any(c["cells"])]
    each = max(1, len(filled[0]["cells"])) if filled else 1
    return filled[: max(20, CELLS // each)]


def text(value: Any, digits: int = 4) -> str:
    """Return a value as cells show it: numbers to so many digits, '' if it is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e12
        return str(int(value)) if whole else f"{value:.{digits}g}"
    return str(value)


def rendered(page: dict[str, Any]) -> str:
    """Return the page as HTML in one file."""
    import jinja2

    source = Path(__file__).with_name("report.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(source).render(page)
