"""Draws a figure kind from a table, and writes <kind>.png, .svg, .pdf and .csv."""

import contextlib
import gc
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure import _hued, lines
from sa.figure._axis import thin_log_ticks
from sa.figure._base import STYLE, Canvas, Kind, Sheet, new_figure
from sa.figure._label import prepared
from sa.figure._settings import replicates, settings, unshown, varying_settings
from sa.table.grouping import configurations, key

OTHERS = {"bands": "evaluated steps", "trajectories": "points of trainings"}
"""Kinds that are not drawn from a table of runs -> the rows of the table that they need."""

NORMS = "full", "batch", "lambda_max", "of_edge", "successive"
"""The results of `analysis=gradient_norm` along a training."""

FITTING: dict[str, tuple[str | Mapping[str, Any], ...]] = {
    "descent/lr": ("lr_decrease", "best_decrease"),
    "alignment/cosine": ("alignment",),
    "smoothing/cosine": ("calibration",),
    "quant_error/worst": ("quant_error",),
    "sensitivity_bits/layers": ("sensitivity_bits",),
    "blocks/order": ("blocks",),
    "eigenvectors/order": ("eigenvectors",),
    "critical_points/status": ("minimal_ratio",),
    "gradient_norm/full": (
        {
            "kind": "lines", "name": "gradient_norm", "x": "step", "log": "y",
            "y": ["loss", *(f"gradient_norm/{k}" for k in NORMS)],
        },
    ),
    "interpolation/alpha": ("interpolation",),
    "function_curve/value": ("function_curve",),
    "surface/losses": ("surface",),
}  # fmt: skip
"""The default kinds of a sweep that names none, by a column that they need."""


LINES_NOW = {
    "accuracy_bits": "digits_bits", "gradient_norm": "gradient_norm", "ranges": "fixed_point",
    "layer_cosine": "xnor_cdg_layer", "lr_batch": "lr_batch_bits",
    "sensitivity": "batch_sensitivity",
}  # fmt: skip
"""Kinds that sweeps of before name -> the experiment that draws the same as lines."""

FORMATS = "png", "svg", "pdf"
"""The endings of the files that every picture is written to."""

PANELS = 12
"""The most panels of a picture of several parts; one part may have more. The layout needs memory
by the square of their number: 0.7 GB for 12, 7 GB for 40."""

BELOW = "triangles: the line continues below the panel"
"""The sentence of the caption if `mark_below` has drawn a triangle."""


def kinds() -> list[str]:
    """Return the names of the figure kinds drawn from a table of runs."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted({p.stem for p in files} - {"draw", "curves", "lines", *OTHERS})


def file_name(kind: str | Mapping[str, Any]) -> str:
    """Return the name of a kind's files, without an ending."""
    return kind if isinstance(kind, str) else _described(kind).file


def fitting(table: pd.DataFrame) -> list[str | Mapping[str, Any]]:
    """Return the kinds that show the results of a table, for a sweep that names none.

    For trainings also ``bands`` if every configuration has several seeds, else ``curves``.
    """
    columns = {str(c) for c in table if table[c].notna().any()}
    found = [k for column, several in FITTING.items() if column in columns for k in several]
    if "steps" in columns and (pd.to_numeric(table["steps"], errors="coerce") > 0).any():
        of = configurations(settings(table))
        several = table["seed"].groupby(of).nunique().min() > 1
        replicas = "replicas" in columns
        found.append("bands" if several or replicas else "curves")
    return found


def draw(kind: str | Mapping[str, Any], table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind, write its pictures and the tidy table, and return their paths.

    Runs that differ in a setting that the kind does not show are drawn in separate rows of panels,
    and the tidy table has every setting that varies. If there are more than `PANELS` panels, they
    continue in the pictures <kind>-2, <kind>-3, ..., which have no tables of their own.

    Args:
        kind: a file of this room, or a mapping: of `sa.figure.lines.Lines` with ``kind: lines``, of
            `sa.figure._hued.Hued` with another kind.
        table: one row for each run. ``attrs["settings"]`` names the columns that are settings;
            ``attrs["missing"]`` says how many runs are not done, for the caption.
        folder: where the files go.

    Raises:
        ValueError: the kind is unknown, or a column that it needs is missing.

    """
    there = sorted([*kinds(), *OTHERS])
    if isinstance(kind, str) and kind in LINES_NOW:
        study = f"conf/experiment/{LINES_NOW[kind]}.yaml"
        raise ValueError(f"it is drawn by kind: lines now; see figure in {study}")
    if isinstance(kind, str) and kind not in there:
        more = "{kind: lines, x: COLUMN, y: COLUMN}"
        raise ValueError(f"there is no figure '{kind}'; there are: {', '.join(there)}, and {more}")
    painter, file = _kind(kind), file_name(kind)
    runs = _with_parts(painter, table, isinstance(kind, str) and kind in OTHERS)
    with _style():
        pictures, tidy, lacking = _pictures(painter, runs)
        missing = str(table.attrs.get("missing", ""))
        paths: list[Path] = []
        for number, paint in enumerate(pictures, 1):
            figure = paint()
            below = BELOW if figure.findobj(lambda artist: artist.get_gid() == "below") else ""
            page = f"picture {number} of {len(pictures)}" if len(pictures) > 1 else ""
            text = "; ".join(filter(None, (page, _caption(painter, runs), below, missing, lacking)))
            if text:
                written = textwrap.wrap(text, int(17 * figure.get_figwidth()))
                figure.set_figheight(figure.get_figheight() + 0.11 * len(written))
                figure.suptitle("\n".join(written), fontsize=6.5, color="0.35")
            name = file if number == 1 else f"{file}-{number}"
            paths += _save(figure, tidy if number == 1 else None, folder / name)
            del figure
            gc.collect()  # a figure has circular references
        _delete_stale(folder, file, len(pictures))
        return paths


def _delete_stale(folder: Path, file: str, count: int) -> None:
    """Delete the pictures of an earlier drawing that had more than ``count``."""
    for path in folder.glob(f"{file}-*.*"):
        number = path.stem.removeprefix(f"{file}-")
        if number.isdigit() and int(number) > count:
            path.unlink()


def caption(kind: str | Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the caption of a kind: seeds, meaning of lines and bands, differing targets."""
    other = isinstance(kind, str) and kind in OTHERS
    return _caption(_kind(kind), _with_parts(_kind(kind), table, other))


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Draw loss and accuracy of one training over its steps; raise ValueError for one row."""
    paint: Callable[[pd.DataFrame, str], tuple[Canvas, pd.DataFrame]]
    paint = import_module("sa.figure.curves").curves
    with _style():
        return _save(*paint(rows, title), folder / "curves")


def _kind(kind: str | Mapping[str, Any]) -> Kind:
    """Return the kind of a name or mapping."""
    described = None if isinstance(kind, str) else _described(kind)
    if isinstance(described, lines.Lines):
        return described.kind
    name = described.kind if described else str(kind)
    found: Kind = vars(import_module(f"sa.figure.{name}"))[name]
    return replace(found, prepare=described.prepare) if described else found


def _described(kind: Mapping[str, Any]) -> lines.Lines | _hued.Hued:
    """Return the figure that a mapping describes."""
    hued = kind.get("kind") in _hued.KINDS
    return _hued.from_mapping(kind) if hued else lines.from_mapping(kind)


def _with_parts(kind: Kind, table: pd.DataFrame, other: bool) -> pd.DataFrame:
    """Return the table that a kind draws; ``part``: the settings that the kind does not show.

    Args:
        kind: what is drawn.
        table: the runs, or the rows that a kind of `OTHERS` needs.
        other: the kind is one of `OTHERS`.

    """
    runs = table.reset_index(drop=True).copy()  # a table in one piece takes columns faster
    if kind.prepare is not None:
        runs = kind.prepare(runs).reset_index(drop=True)
    if not other:
        runs = prepared(runs)
        if "run_id" not in runs:
            runs["run_id"] = runs.index.astype(str)
        if "label" in kind.shows and runs["label"].nunique() == 1:  # hues can show another setting
            shown = [c for c in kind.columns(runs) if c.name != "label"]
            labels = unshown(runs, shown)
            runs["label"] = labels.where(labels != "", runs["label"])
    return runs.assign(part=unshown(runs, kind.columns(runs)))


def _pictures(
    kind: Kind, runs: pd.DataFrame
) -> tuple[list[Callable[[], Figure]], pd.DataFrame, str]:
    """Return the painters of the pictures, the tidy table, and a text about parts left out.

    Each part has a row of panels. A part that lacks a column of the kind is left out. If all parts
    lack one, the ValueError is raised.
    """
    parts, lacking, tables, sizes, panels, whole = {}, {}, [], [], [], None
    for name, part in runs.groupby("part", sort=False):
        try:
            figure, tidy = kind(part)
        except ValueError as error:
            lacking[str(name)] = error
            continue
        assert isinstance(figure, Figure)
        parts[str(name)], whole = part, whole or figure
        tables.append(tidy.assign(part=name))
        panels.append(len(figure.axes))
        sizes.append((float(figure.get_figwidth()), float(figure.get_figheight()) + 0.3))
    if whole is None:
        raise next(iter(lacking.values()))
    more = f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
    left_out = f"without results: {', '.join([*lacking][:6])}{more}" if lacking else ""
    tidy = _with_settings(kind, runs, pd.concat(tables, ignore_index=True))
    if len(parts) == 1:
        return [lambda: whole], tidy.drop(columns="part"), left_out
    pages: list[list[Row]] = [[]]
    held = 0
    for row, count in zip(zip(parts.items(), sizes, strict=True), panels, strict=True):
        if pages[-1] and held + count > PANELS:
            pages.append([])
            held = 0
        pages[-1].append(row)
        held += count
    return [partial(_stacked, kind, page) for page in pages], tidy, left_out


Row = tuple[tuple[str, pd.DataFrame], tuple[float, float]]


def _stacked(kind: Kind, rows: Sequence[Row]) -> Figure:
    """Return one figure of parts below each other, each ((name, table), (width, height))."""
    heights = [height for _, (_, height) in rows]
    whole = new_figure(max(width for _, (width, _) in rows), sum(heights))
    places = whole.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, ((name, part), _) in zip(places, rows, strict=True):
        kind(part, _sheet_of(place))
        place.suptitle(name, fontsize=9, fontweight="bold")
    return whole


def _sheet_of(canvas: Canvas) -> Sheet:
    """Return a sheet that gives this canvas, whatever size is wanted."""
    return lambda width, height: canvas


def _with_settings(kind: Kind, runs: pd.DataFrame, tidy: pd.DataFrame) -> pd.DataFrame:
    """Return the tidy table with the settings that vary, matched by run or by what it shows."""
    names = [*varying_settings(runs), *runs.attrs.get("chosen", [])]
    on = ["run_id"] if "run_id" in tidy else _keys(kind, tidy)
    known = runs[list(dict.fromkeys([*on, *names]))].drop_duplicates(on)
    free = {n: n if n not in tidy else f"config.{n}" for n in names if n not in on}
    out = tidy.merge(known.rename(columns=free), on=on, how="left")
    twice = [f for n, f in free.items() if f != n and out[f].map(key).equals(out[n].map(key))]
    return out.drop(columns=twice)


def _keys(kind: Kind, tidy: pd.DataFrame) -> list[str]:
    """Return the columns by which a row of several runs is matched with their settings."""
    shown = [c for c in kind.shows if isinstance(c, str)]
    return [c for c in dict.fromkeys(["part", "label", *shown]) if c in tidy]


def _caption(kind: Kind, runs: pd.DataFrame) -> str:
    best = str(runs.attrs.get("best", ""))
    parts = (replicates(runs), kind.spread, best, targets(runs)) if kind.spread else ()
    return "; ".join(filter(None, parts))


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(sns.axes_style("ticks") | STYLE):
        yield


def targets(table: pd.DataFrame) -> str:
    """Return a warning that the estimators have different targets; '' if they have one."""
    if "target" not in table or table["target"].nunique() < 2:
        return ""
    who = table["label"].str.split().str[0]
    if table.groupby(who)["target"].nunique().max() > 1:  # the name alone leaves the target open
        who = table["label"]
    pairs = who.groupby(table["target"]).agg(lambda s: ", ".join(sorted(set(s))))
    if who.nunique() > 12:
        listed = ", ".join(f"{names.count(', ') + 1} estimators {t}" for t, names in pairs.items())
    else:
        listed = "; ".join(f"{names}: {t}" for t, names in pairs.items())
    return f"targets differ ({listed})"


def _save(figure: Canvas, tidy: pd.DataFrame | None, path: Path) -> list[Path]:
    """Write a figure in three formats, and its table if there is one; return the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = []
    assert isinstance(figure, Figure)
    thin_log_ticks(figure)
    figure.draw_without_rendering()  # computes the layout, once for all formats
    figure.set_layout_engine("none")
    for end in FORMATS if tidy is None else (*FORMATS, "csv"):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        try:
            if end == "csv" and tidy is not None:
                tidy.to_csv(temp, index=False)
            else:
                figure.savefig(temp, format=end, dpi=200)
            saved.append(temp.replace(path.with_suffix(f".{end}")))
        finally:
            temp.unlink(missing_ok=True)
    return saved
