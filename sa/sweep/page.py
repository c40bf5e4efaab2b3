"""The report of a sweep: table, figures, verdicts, and one page that needs nothing else."""

import base64
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa import record
from sa.sweep.series import along, evaluated, is_number, thin_curves, varied
from sa.sweep.status import ENDED, aligned, counted, runs_there
from sa.sweep.table import Columns, cautions, framed, write_table

if TYPE_CHECKING:
    import pandas as pd

KEY_NUMBERS = (
    "value alignment/cosine alignment/scale descent/best descent/ratio train/loss train/accuracy "
    "test/loss test/accuracy evals seconds"
).split()
"""The results the report's table shows beside the objective; a row unfolds to all the others."""

DIGEST = (
    "alignment/cosine",
    "descent/best",
    "descent/best_heldout",
    "smoothing/epsilon",
    "smoothing/sigma",
    "bias_variance/bias2",
    "bias_variance/variance",
    "efficiency/at_evals/cosine",
    "training/ratio",
    "quant_error/least",
    "cost/bops",
    "sensitivity_bits/kendall/taylor",
    "sensitivity_bits/gain",
    "train/loss",
    "test/accuracy",
    "evals",
)
"""The results the terminal's table shows, where a sweep has them."""

PICTURES = 12
"""The most figures of one kind in the page."""


def report(root: Path, name: str, over: str = "step") -> None:
    """Draw a sweep's figures and write its page; of a run's id, draw its curves.

    over: what curves and bands are drawn over, of `series.OVER`.
    """
    run = root / "runs" / name
    if run.is_dir() and name not in record.sweeps(root):
        _curves(run, over)
        return
    try:
        about, points = record.read_manifest(root, name)
    except record.Missing as error:
        raise record.Missing(f"{error}; runs: {runs_there(root)}") from error
    table = write_table(root, name, framed(root, points))
    print(_digest(points, table, about.get("objective")))
    folder = record.sweep_folder(root, name)
    figures, problems = _draw(root, about | {"name": name, "over": over}, points, table)
    page = _page(about, points, table)
    curves, unread = thin_curves(root, points)
    page |= {"title": name, "figures": figures, "problems": problems + unread, "curves": curves}
    page["expectations"] = _judged(about, points, table, folder)
    for point, row in zip(points, page["rows"], strict=True):
        reason = record.load_status(root / "runs" / point["run_id"]).get("error")
        row["detail"] += f"\n\n{reason}" if reason else ""
    record.write_text(folder / "report.html", _rendered(page))
    print(f"report: {folder / 'report.html'}")


def _digest(
    points: list[dict[str, Any]], table: "pd.DataFrame", objective: str | None = None
) -> str:
    """The small table for the terminal: mean (least ... most) over seeds of the key numbers.

    A study's objective comes first where it is a number.
    """
    keys = [k for k in DIGEST if k in table and table[k].notna().any()]
    if objective and objective in table and table[objective].map(is_number).any():
        keys = [objective, *(k for k in keys if k != objective)]
    groups: dict[str, list[int]] = {}
    for at, point in enumerate(points):
        words = [w for w in point["overrides"] if not w.startswith("seed=")]
        groups.setdefault(" ".join(words) or "the defaults", []).append(at)
    lines = [["mean (least ... most)", "runs", *keys]]
    for label, places in list(groups.items())[:40]:
        cells = []
        for key in keys:
            got = table[key].iloc[places].dropna().astype(float)
            spread = f" ({got.min():.3g} ... {got.max():.3g})" if got.nunique() > 1 else ""
            cells.append(f"{got.mean():.4g}{spread}" if len(got) else "")
        ended = int(table["status"].iloc[places].isin(ENDED).sum())
        lines.append([label, str(ended), *cells])
    more = f"\n... and {len(groups) - 40} more in the page" if len(groups) > 40 else ""
    return "\n" + aligned(lines) + more + "\n"


def _judged(
    about: dict[str, Any], points: list[dict[str, Any]], table: "pd.DataFrame", folder: Path
) -> list[dict[str, Any]]:
    """What the study expects with its verdicts, in ``expectations.json`` and on the terminal."""
    if not about.get("expectations"):
        return []
    from sa.sweep import expectation

    words = [p["overrides"] for p in points]
    judged = expectation.judge(expectation.read(about["expectations"]), table, words)
    record.write_json(folder / "expectations.json", judged)
    lines = [expectation.line(j) for j in judged]
    print("expected:\n" + "\n".join(f"  {x}" for x in lines))
    return [{"verdict": j["verdict"], "line": x} for j, x in zip(judged, lines, strict=True)]


def _curves(run: Path, over: str) -> None:
    from sa.figure import draw

    rows = _steps(run)
    if not rows:
        raise record.RecordError(f"{run} has no rows to draw yet: it is {record.state(run)}")
    for path in draw.curves(_placed(rows, run, over), run / "figures", title=run.name):
        print(f"figure: {path}")


def _steps(run: Path) -> list[dict[str, Any]]:
    """The rows of a run that say their step, as all of today's do."""
    return [row for row in record.read_rows(run) if is_number(row.get("step"))]


def _placed(rows: list[dict[str, Any]], run: Path, over: str) -> "pd.DataFrame":
    """The rows of a run with the column that they are drawn over."""
    import pandas as pd

    where = along(run, over)
    table = pd.DataFrame([row | {over: where(row)} for row in rows])
    table.attrs["over"] = over
    return table


def _all_curves(root: Path, points: list[dict[str, Any]], folder: Path, over: str) -> list[Path]:
    """The curves of every training of a sweep, each in a folder of its run's id."""
    from sa.figure import draw

    paths: list[Path] = []
    for point in points:
        run = root / "runs" / point["run_id"]
        rows = _steps(run)
        if len(rows) > 1:
            title = " ".join(point["overrides"]) or run.name
            paths += draw.curves(_placed(rows, run, over), folder / run.name, title)
    return paths


def _draw(
    root: Path, about: dict[str, Any], points: list[dict[str, Any]], table: "pd.DataFrame"
) -> tuple[list[dict[str, str]], list[str]]:
    """The figures as data URIs, and what went wrong with those that could not be drawn."""
    kinds = about.get("figure") or []
    figures, problems = [], []
    folder = record.sweep_folder(root, about["name"]) / "figures"
    ended = table[table["status"].isin(ENDED)]
    ended.attrs["rows"] = lambda run: _steps(root / "runs" / run)
    ended.attrs["expectations"] = about.get("expectations") or []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        try:
            from sa.figure import draw

            folder.mkdir(parents=True, exist_ok=True)
            if kind == "curves":
                paths = _all_curves(root, points, folder, about["over"])
            else:
                paths = draw.draw(kind, _source(kind, root, points, ended, about["over"]), folder)
        except Exception as error:  # one figure must not cost the page
            problems.append(f"figure {kind}: {error or type(error).__name__}")
            print(f"note: {problems[-1]}")
            continue
        pictures = [p for p in paths if p.suffix == ".png"]
        for path in pictures:
            print(f"figure: {path}")
        for path in pictures[:PICTURES]:
            picture = base64.b64encode(path.read_bytes()).decode()
            figures.append({"kind": kind, "uri": f"data:image/png;base64,{picture}"})
        if len(pictures) > PICTURES:
            more = f"{kind}: {PICTURES} of {len(pictures)} figures are shown, all are in {folder}"
            problems.append(more)
    return figures, problems


def _source(
    kind: str, root: Path, points: list[dict[str, Any]], ended: "pd.DataFrame", over: str
) -> "pd.DataFrame":
    """The table that a kind of figure is drawn from."""
    if kind == "trajectories":
        from sa.sweep import weight_pca

        return weight_pca.table(root, points)
    named = varied(points)
    if kind == "bands":
        return evaluated(root, points, named, over)
    words = dict(zip([p["run_id"] for p in points], named, strict=True))
    return ended.assign(words=ended["run_id"].map(words))


def _page(
    about: dict[str, Any],
    points: list[dict[str, Any]],
    table: "pd.DataFrame",
) -> dict[str, Any]:
    """What the template shows: facts, and a table of what varies and the key numbers."""
    settings, results = table.attrs["settings"], table.attrs["results"]
    words = [dict(w.lstrip("+").split("=", 1) for w in p["overrides"] if "=" in w) for p in points]
    typed = {k: [w.get(k, "") for w in words] for k in dict.fromkeys(k for w in words for k in w)}
    swept: Columns = {k: v for k, v in typed.items() if len(set(v)) > 1}
    if not swept:  # a plan without overrides: read it off the configurations
        swept = {k: list(table[k]) for k in settings if table[k].nunique() > 1}
    lists = {k for k in results if any(isinstance(v, list) for v in table[k])}
    keys = dict.fromkeys(k for k in (about.get("objective"), *KEY_NUMBERS) if k in results)
    keys = keys or dict.fromkeys([k for k in results if k not in lists][:12])
    shown = swept | {k: list(table[k]) for k in keys if k not in lists}
    shown["status"] = list(table["status"])
    rows = []
    for i, (_, row) in enumerate(table.iterrows()):
        named = [(k, row[k]) for k in (*settings, *results, "run_id", "commit") if k not in lists]
        detail = "\n".join(f"{k}: {_text(v, 10)}" for k, v in named if _text(v))
        hidden = ", ".join(k for k in results if k in lists and isinstance(row[k], list))
        detail += f"\n\nlists, in results.parquet: {hidden}" if hidden else ""
        cells = [_text(v[i]) for v in shown.values()]
        rows.append({"cells": cells, "detail": detail, "run": row["run_id"]})
    return {
        "description": about.get("description"),
        "command": "python -m sa.run " + shlex.join(map(str, about.get("argv") or [])),
        "created": about.get("created"),
        "counts": counted(list(table["status"])),
        "commits": sorted({c for both in table["commit"].dropna() for c in both.split("+")}),
        "cautions": cautions(table),
        "columns": list(shown),
        "rows": rows,
    }


def _text(value: Any, digits: int = 4) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e12
        return str(int(value)) if whole else f"{value:.{digits}g}"
    return str(value)


def _rendered(page: dict[str, Any]) -> str:
    import jinja2

    source = Path(__file__).with_name("report.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(source).render(page)
