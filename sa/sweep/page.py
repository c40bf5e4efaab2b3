"""The report of a sweep: tables, figures, verdicts, and a page in one file."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.record import files, sweep
from sa.record import run as record
from sa.sweep import scales, view
from sa.sweep.display import Cell, Row, counted, over_seeds, short_of
from sa.sweep.export import export
from sa.sweep.label import full_labels, short_labels, typed_settings
from sa.sweep.meaning import caption
from sa.sweep.series import along, evaluated, is_number, thin_curves
from sa.sweep.status import ENDED, aligned, runs_there
from sa.sweep.table import aggregate, framed, write_table

if TYPE_CHECKING:
    import pandas as pd

RANKINGS = ("variants", "prediction")
"""Figure kinds that also count the runs that have not ended."""

PICTURES = 12
"""The most figures of one kind in the page."""


def report(root: Path, name: str, over: str = "step") -> None:
    """Draw a sweep's figures and write its tables and page; for a run's id, draw its curves.

    Args:
        root: the folder above runs/ and sweeps/.
        name: name of the sweep, or the id of a run.
        over: the horizontal axis of curves and bands, one of `series.OVER`.

    """
    run = root / "runs" / name
    if run.is_dir() and name not in sweep.sweeps(root):
        _curves(run, over)
        return
    try:
        about, points = sweep.read_manifest(root, name)
    except files.Missing as error:
        raise files.Missing(f"{error}; runs: {runs_there(root)}") from error
    table = write_table(root, name, framed(root, points))
    labels, keys = full_labels(points, table), view.key_numbers(table, about.get("metric"))
    print(_digest(points, table, about.get("metric")))
    answers = scales.answers(table, labels)
    print("\n".join([*answers, ""]) if answers else "", end="")
    folder = sweep.sweep_folder(root, name)
    tables = export(folder, table, aggregate(table), labels, keys)
    print(f"tables: {', '.join(str(p) for p in tables)}")
    figures, problems = _draw(root, about | {"name": name, "over": over}, points, table)
    page = view.page(about, points, table, labels)
    curves, unreadable = thin_curves(root, points)
    page |= {"title": name, "figures": figures, "problems": problems + unreadable, "curves": curves}
    page |= {"answers": answers, "tables": [p.name for p in (folder / "results.parquet", *tables)]}
    page["expectations"] = _judged(about, points, table, folder)
    for point, row in zip(points, page["rows"], strict=True):
        reason = record.load_status(root / "runs" / point["run_id"]).get("error")
        row["detail"] += f"\n\n{reason}" if reason else ""
    files.write_text(folder / "report.html", view.rendered(page))
    print(f"report: {folder / 'report.html'}")


def _digest(points: list[dict[str, Any]], table: "pd.DataFrame", metric: str | None = None) -> str:
    """Return the table for the terminal: mean (least ... most) over seeds of the key results.

    The study's metric comes first, if it is a number.
    """
    keys = view.key_numbers(table, metric)
    keys = [k for k in keys if k in view.TERMINAL or k == metric]
    names, rows = over_seeds(table, full_labels(points, table), keys)
    shown = [k for k in range(len(names)) if any(row.cells[k].n for row in rows)]
    lines = [["mean (least ... most)", "runs", *(names[k] for k in shown)]]
    for row in rows[:40]:
        lines.append([row.label, counted(row), *(_spread(row.cells[k], row) for k in shown)])
    more = f"\n... and {len(rows) - 40} more on the page" if len(rows) > 40 else ""
    return "\n" + aligned(lines) + more + "\n"


def _spread(cell: Cell, row: Row) -> str:
    """Return ``0.5 (0.4 ... 0.6)``, with the number of runs if it is not of all done runs."""
    if not cell.n:
        return ""
    if cell.reference:
        return f"{cell.mean:.4g} (reference)"
    low, high = f"{cell.low:.3g}", f"{cell.high:.3g}"
    ends = f" ({low} ... {high})" if low != high else ""
    return f"{cell.mean:.4g}{ends}{short_of(cell, row)}"


def _judged(
    about: dict[str, Any], points: list[dict[str, Any]], table: "pd.DataFrame", folder: Path
) -> list[dict[str, Any]]:
    """Write the verdicts of the expectations, print them, and return them for the page."""
    if not about.get("expectations"):
        return []
    from sa.sweep import expectation

    words = [p["overrides"] for p in points]
    expected = expectation.read(expectation.recorded(about["expectations"]))
    judged = expectation.judge(expected, table, words)
    files.write_json(folder / "expectations.json", judged)
    lines = [expectation.line(j) for j in judged]
    print("expected:\n" + "\n".join(f"  {x}" for x in lines))
    return [{"verdict": j["verdict"], "line": x} for j, x in zip(judged, lines, strict=True)]


def _curves(run: Path, over: str) -> None:
    """Draw the curves of one run."""
    from sa.figure import draw

    rows = _steps(run)
    if not rows:
        raise files.RecordError(f"{run} has no rows to draw yet; the run is {record.state(run)}")
    for path in draw.curves(_placed(rows, run, over), run / "figures", title=run.name):
        print(f"figure: {path}")


def _steps(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run that have a step; rows of old records may lack it."""
    return [row for row in record.read_rows(run) if is_number(row.get("step"))]


def _placed(rows: list[dict[str, Any]], run: Path, over: str) -> "pd.DataFrame":
    """Return the rows of a run with the column of their horizontal axis."""
    import pandas as pd

    where = along(run, over)
    table = pd.DataFrame([row | {over: where(row)} for row in rows])
    table.attrs["over"] = over
    return table


def _all_curves(root: Path, points: list[dict[str, Any]], folder: Path, over: str) -> list[Path]:
    """Draw the curves of every training of a sweep, in a folder for each run; return the paths."""
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
    """Draw the figures; return them as data URIs, and a message for each that failed."""
    figures: list[dict[str, Any]] = []
    problems: list[str] = []
    folder = sweep.sweep_folder(root, about["name"]) / "figures"
    table = table.copy()
    table.attrs["rows"] = lambda run: _steps(root / "runs" / run)
    table.attrs["expectations"] = about.get("expectations") or []
    drawn: set[str] = set()
    for kind in _kinds(about, table):
        name = str(kind)
        try:
            from sa.figure import draw

            name = draw.file_name(kind)
            if name in drawn:
                raise ValueError("another figure has this name; give this one another, name: NAME")
            drawn.add(name)
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "curves":
                paths = _all_curves(root, points, folder, about["over"])
            else:
                source = _source(kind, root, points, table, about["over"])
                source.attrs["missing"] = _missing(table)
                paths = draw.draw(kind, source, folder)
        except Exception as error:  # a figure that fails must not stop the page
            problems.append(f"figure {name}: {error or type(error).__name__}")
            print(f"note: {problems[-1]}")
            continue
        pictures = [p for p in paths if p.suffix == ".png"]
        for path in pictures:
            print(f"figure: {path}")
        for path in pictures[:PICTURES]:
            figures.append(_figure(name, path, paths, folder.parent))
        if len(pictures) > PICTURES:
            more = f"{name}: the page shows {PICTURES} of {len(pictures)} figures; all: {folder}"
            problems.append(more)
    return figures, problems


def _missing(table: "pd.DataFrame") -> str:
    """Return how many runs of a sweep are not done, by state; '' if all are done."""
    states = table["status"][table["status"] != "done"].value_counts()
    return ", ".join(f"{n} of {len(table)} runs {state}" for state, n in states.items())


def _kinds(about: dict[str, Any], table: "pd.DataFrame") -> Sequence[str | Mapping[str, Any]]:
    """Return the figure kinds that the sweep names; for null, those that show its results."""
    kinds = about.get("figure", [])
    if kinds is None:
        from sa.figure import draw

        return draw.fitting(table)
    return [kinds] if isinstance(kinds, str | dict) else list(kinds)


def _figure(kind: str, path: Path, paths: list[Path], folder: Path) -> dict[str, Any]:
    """Return a figure for the page: the picture, its caption, and links to its other files."""
    picture = base64.b64encode(path.read_bytes()).decode()
    siblings = [p for p in paths if p.stem == path.stem and p.parent == path.parent and p != path]
    links = {p.suffix[1:].upper(): p.relative_to(folder).as_posix() for p in siblings}
    about = caption("figure", kind) or kind.replace("_", " ")
    return {
        "kind": kind, "uri": f"data:image/png;base64,{picture}", "caption": about, "links": links
    }  # fmt: skip


def _source(
    kind: str | Mapping[str, Any],
    root: Path,
    points: list[dict[str, Any]],
    table: "pd.DataFrame",
    over: str,
) -> "pd.DataFrame":
    """Return the table that a figure kind is drawn from."""
    import pandas as pd

    if kind == "trajectories":
        from sa.sweep import weight_pca

        return weight_pca.table(root, points)
    if kind == "bands":
        rows = evaluated(root, points, short_labels(points, table), over)
        if rows.empty:
            raise ValueError("no step of the trainings has been evaluated yet; set evaluate_every")
        return _with_settings(rows, points, table)
    table = table.assign(typed=pd.Series(typed_settings(points), table.index, dtype=object))
    ended = table[table["status"].isin(ENDED)]
    if ended.empty:
        raise ValueError("no run of the sweep has ended yet")
    return table if kind in RANKINGS else ended


def _with_settings(
    rows: "pd.DataFrame", points: list[dict[str, Any]], table: "pd.DataFrame"
) -> "pd.DataFrame":
    """Return the evaluated steps with the settings that vary between their labels."""
    from sa.table.grouping import varying

    names = varying(table[table.attrs["settings"]])
    known = table[names].assign(label=[x or "all" for x in short_labels(points, table)])
    out = rows.merge(known.drop_duplicates("label"), on="label", how="left")
    out.attrs = rows.attrs | {"settings": [*names, "seed"]}
    return out
