"""The curves of trainings as the page holds them: thinned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sa.record import files
from sa.record import run as record

if TYPE_CHECKING:
    import pandas as pd

SCORES = "train/loss", "test/loss", "train/accuracy", "test/accuracy"
"""What evaluations measure."""

_SPLITS = [f"{split}/{end}" for end in ("loss", "accuracy") for split in ("train", "test")]
SERIES = [
    "loss",
    *(f"{average}{split}" for split in _SPLITS for average in ("", "ema/", "swa/")),
    *"train/fitted keep alignment/cosine descent/best".split(),
]
"""What the page draws over the steps of a training when its row is opened."""

OVER = "step", "epoch", "sample", "flops"
"""What trainings are drawn over."""

POINTS = 200, 150_000
"""The most points of one series in the page, and of all of them together (some 2 MB)."""


def thin_curves(root: Path, points: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """By run id, the series [steps, values] of each training, evenly thinned; and what is unread.

    An open row of the page draws them: they are all that it holds of metrics.jsonl.
    """
    curves: dict[str, Any] = {}
    unread = []
    for point in points:
        try:
            rows = record.read_rows(root / "runs" / point["run_id"])
        except files.RecordError as error:  # one run must not cost the page
            unread.append(f"curves of {point['run_id']}: {error}")
            print(f"note: {unread[-1]}")
            continue
        if len(rows) > 1:
            found = {k: _thinned(_numbers(rows, k), POINTS[0]) for k in SERIES}
            kept = {k: v for k, v in found.items() if len(v) > 1}
            curves[point["run_id"]] = {"rows": len(rows), "series": kept}
    most = POINTS[1] // max(1, sum(len(c["series"]) for c in curves.values()))
    for run in curves.values():
        short = {k: _thinned(v, max(2, most)) for k, v in run["series"].items()}
        run["series"] = {k: list(zip(*v, strict=True)) for k, v in short.items()}
    return {run: c for run, c in curves.items() if c["series"]}, unread


def _numbers(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) wherever a row has both, to the four digits that a curve can show."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    return [(x, float(f"{y:.4g}")) for x, y in pairs if is_number(x) and is_number(y)]


def along(folder: Path, over: str) -> Callable[[Mapping[str, Any]], float]:
    """Where a row of a run lies: its step, or the epochs, rows seen or FLOPs up to there.

    FLOPs are two a multiply-accumulate of the affine maps of every forward-equivalent, those of the
    row's own gradient among them. Raises RecordError where the run does not say what is needed.
    """
    if over == "step":
        return lambda row: row["step"]
    told = files.read_json(folder / "result.json") or {}
    needed = ("rows", "cost/macs") if over == "flops" else ("rows",)
    for key in needed:
        if not is_number(told.get(key)):
            remedy = "set analysis=[cost]" if key != "rows" else "has it ended? or take --over step"
            raise files.RecordError(f"--over {over}: {folder.name} has no '{key}'; {remedy}")
    batch = (files.read_json(folder / "meta.json") or {}).get("hashed", {}).get("batch_size")
    batch = batch or told["rows"]
    if over == "flops":
        return lambda row: row.get("evals", float("nan")) * batch * 2 * told["cost/macs"]
    if over == "sample":
        return lambda row: row["step"] * batch
    return lambda row: row["step"] / max(1, told["rows"] // batch)


def evaluated(
    root: Path, points: list[dict[str, Any]], labels: list[str], over: str = "step"
) -> "pd.DataFrame":
    """Every evaluated step of every training: label, seed, step and the scores; replicas each.

    over: a column beside, of `along`, in whose name ``attrs["over"]`` tells the figure.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for point, label in zip(points, labels, strict=True):
        folder = root / "runs" / point["run_id"]
        first = ((files.read_json(folder / "meta.json") or {}).get("hashed") or {}).get("seed", 0)
        where = along(folder, over)
        for row in record.read_rows(folder):
            got = {k: row[k] for k in SCORES if is_number(row.get(k))}
            each = {k: row[f"{k}/each"] for k in got if isinstance(row.get(f"{k}/each"), list)}
            about = {"label": label or "all", "step": row.get("step")}
            about |= {over: where(row)} if got else {}
            for r in range(len(next(iter(each.values()), [0])) if got else 0):
                rows.append(about | {"seed": first + r} | got | {k: v[r] for k, v in each.items()})
    names = dict.fromkeys(["label", "seed", "step", over, *SCORES])
    table = pd.DataFrame(rows, columns=list(names)).dropna(axis=1, how="all")
    table.attrs["over"] = over
    return table


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one number."""
    return kind_of(value) == "number"


def _thinned(values: list[Any], most: int) -> list[Any]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def kind_of(value: Any) -> str:
    """What a column of such values is: bool, number, numbers, text or other."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number" if abs(value) < 2**63 or isinstance(value, float) else "other"
    if isinstance(value, list):
        simple = all(x is None or kind_of(x) == "number" for x in value)
        return "numbers" if simple else "other"
    return "text" if isinstance(value, str) else "other"
