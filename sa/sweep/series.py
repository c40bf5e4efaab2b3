"""The curves of trainings: thinned for the page, and evaluated steps for figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sa.record import files
from sa.record import run as record

if TYPE_CHECKING:
    import pandas as pd

SCORES = "train/loss", "test/loss", "train/accuracy", "test/accuracy"
"""The results of an evaluation."""

_SPLITS = [f"{split}/{end}" for end in ("loss", "accuracy") for split in ("train", "test")]
SERIES = [
    "loss",
    *(f"{average}{split}" for split in _SPLITS for average in ("", "ema/", "swa/")),
    *"train/fitted keep alignment/cosine descent/best".split(),
]
"""The curves that an opened row of the page shows."""

OVER = "step", "epoch", "sample", "flops"
"""The horizontal axes of curves and bands."""

POINTS = 200, 150_000
"""The most points of one curve in the page, and of all curves together (about 2 MB)."""


def thin_curves(root: Path, points: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the evenly thinned curves [steps, values] of each run id, and what is unreadable.

    They are the only rows of metrics.jsonl that the page contains.
    """
    curves: dict[str, Any] = {}
    problems = []
    for point in points:
        try:
            rows = record.read_rows(root / "runs" / point["run_id"])
        except files.RecordError as error:  # a damaged run must not stop the page
            problems.append(f"curves of {point['run_id']}: {error}")
            print(f"note: {problems[-1]}")
            continue
        if len(rows) > 1:
            found = {k: _thinned(_numbers(rows, k), POINTS[0]) for k in SERIES}
            series = {k: v for k, v in found.items() if len(v) > 1}
            curves[point["run_id"]] = {"rows": len(rows), "series": series}
    most = POINTS[1] // max(1, sum(len(c["series"]) for c in curves.values()))
    for run in curves.values():
        short = {k: _thinned(v, max(2, most)) for k, v in run["series"].items()}
        run["series"] = {k: list(zip(*v, strict=True)) for k, v in short.items()}
    return {run: c for run, c in curves.items() if c["series"]}, problems


def _numbers(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) of each row that has both, to the four digits that a curve shows."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    return [(x, float(f"{y:.4g}")) for x, y in pairs if is_number(x) and is_number(y)]


def along(folder: Path, over: str) -> Callable[[Mapping[str, Any]], float]:
    """Return a function from a row of a run to its step, epoch, rows seen, or FLOPs.

    FLOPs count two for each multiply-accumulate of the affine maps in all forward-equivalents so
    far, including the row's own gradient.

    Args:
        folder: folder of the run.
        over: one of `OVER`.

    Raises:
        RecordError: the run did not record the rows or the cost that this needs.

    """
    if over == "step":
        return lambda row: row["step"]
    result = files.read_json(folder / "result.json") or {}
    needed = ("rows", "cost/macs") if over == "flops" else ("rows",)
    for key in needed:
        if not is_number(result.get(key)):
            remedy = "wait for its end, or use --over step"
            remedy = remedy if key == "rows" else "repeat it with analysis=[cost]"
            raise files.RecordError(f"--over {over}: {folder.name} has no '{key}'; {remedy}")
    batch = (files.read_json(folder / "meta.json") or {}).get("hashed", {}).get("batch_size")
    batch = batch or result["rows"]
    if over == "flops":
        return lambda row: row.get("evals", float("nan")) * batch * 2 * result["cost/macs"]
    if over == "sample":
        return lambda row: row["step"] * batch
    return lambda row: row["step"] / max(1, result["rows"] // batch)


def evaluated(
    root: Path, points: list[dict[str, Any]], labels: list[str], over: str = "step"
) -> "pd.DataFrame":
    """Return every evaluated step of every training: label, seed, step and scores.

    Each of several replicas has its own row.

    Args:
        root: the folder above runs/.
        points: points of the sweep.
        labels: a label for each point.
        over: one of `OVER`; the table has a column of that name, and names it in
            ``attrs["over"]``.

    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for point, label in zip(points, labels, strict=True):
        folder = root / "runs" / point["run_id"]
        first = ((files.read_json(folder / "meta.json") or {}).get("hashed") or {}).get("seed", 0)
        where = along(folder, over)
        for row in record.read_rows(folder):
            scores = {k: row[k] for k in SCORES if is_number(row.get(k))}
            if not scores:
                continue
            each = {k: row[f"{k}/each"] for k in scores if isinstance(row.get(f"{k}/each"), list)}
            about = {"label": label or "all", "step": row.get("step"), over: where(row)} | scores
            for r in range(len(next(iter(each.values()), [0]))):
                rows.append(about | {"seed": first + r} | {k: v[r] for k, v in each.items()})
    names = dict.fromkeys(["label", "seed", "step", over, *SCORES])
    table = pd.DataFrame(rows, columns=list(names)).dropna(axis=1, how="all")
    table.attrs["over"] = over
    return table


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is one number."""
    return kind_of(value) == "number"


def _thinned(values: list[Any], most: int) -> list[Any]:
    """Return at most so many of the values, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def kind_of(value: Any) -> str:
    """Return the kind of a value: bool, number, numbers, text or other."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number" if abs(value) < 2**63 or isinstance(value, float) else "other"
    if isinstance(value, list):
        simple = all(x is None or kind_of(x) == "number" for x in value)
        return "numbers" if simple else "other"
    return "text" if isinstance(value, str) else "other"
