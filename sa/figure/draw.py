"""Draws a kind, named as its file is, from a table: <kind>.png, .svg, .pdf and .csv."""

import contextlib
import gc
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure import lines
from sa.figure._apart import replicates, rest, settings, varied
from sa.figure._axis import thin
from sa.figure._label import prepared
from sa.figure._paper import STYLE, Canvas, Kind, Sheet, alone
from sa.table.grouping import configurations, key

OTHERS = {"bands": "evaluated steps", "trajectories": "points of trainings"}
"""Kinds that are drawn from another table than that of runs, and what it holds."""

NORMS = "full", "batch", "lambda_max", "of_edge", "successive"
"""What `analysis=gradient_norm` measures along a training."""

FITTING: dict[str, tuple[str | Mapping[str, Any], ...]] = {
    "descent/lr": ("lr_decrease", "best_decrease"),
    "alignment/cosine": ("alignment",),
    "smoothing/cosine": ("calibration",),
    "quant_error/worst": ("quant_error",),
    "sensitivity_bits/layers": ("sensitivity_bits",),
    "blocks/order": ("blocks",),
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
"""The kinds that a sweep draws which names none, by a column that they need."""


PANELS = 12
"""The most panels of a picture with several parts, but for those of one part. Laying them out takes
memory by the square of their number: 0.7 GB for 12, 7 GB for 40."""

BELOW = "triangles: the line goes on below the panel"
"""What the caption of a figure says where `mark_below` has drawn one."""


def kinds() -> list[str]:
    """The figure kinds drawn from a table of runs."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted({p.stem for p in files} - {"draw", "curves", "lines", *OTHERS})


def file_name(kind: str | Mapping[str, Any]) -> str:
    """Return what the files of a kind are called; of a mapping what `Lines.file` says."""
    return kind if isinstance(kind, str) else lines.asked(kind).file


def fitting(table: pd.DataFrame) -> list[str | Mapping[str, Any]]:
    """The kinds that show what the runs of a table have measured.

    Of trainings also ``bands`` where every configuration has several seeds, else ``curves``.
    """
    there = {str(c) for c in table if table[c].notna().any()}
    found = [k for column, several in FITTING.items() if column in there for k in several]
    if "steps" in there and (pd.to_numeric(table["steps"], errors="coerce") > 0).any():
        of = configurations(settings(table))
        several = table["seed"].groupby(of).nunique().min() > 1
        replicas = "replicas" in there
        found.append("bands" if several or replicas else "curves")
    return found


def draw(kind: str | Mapping[str, Any], table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind from its table: <folder>/<kind>.png, .svg, .pdf and .csv, the tidy table.

    kind: a file of this room, or the mapping of `sa.figure.lines.Lines`, with ``kind: lines``.
    Runs that differ in a setting that the kind does not show by itself are drawn in rows of panels
    of their own, and the tidy table has every setting that varies. Of more panels than `PANELS`
    the rest follow in <kind>-2, <kind>-3, ..., pictures without tables.
    ``table.attrs["settings"]`` names the columns that are settings; ``table.attrs["missing"]`` says
    how many runs of the sweep are not done, and is written below the figure's caption.

    Raises ValueError for an unknown kind (naming those there are) or a missing column.
    """
    there = sorted([*kinds(), *OTHERS])
    if isinstance(kind, str) and kind not in there:
        more = "{kind: lines, x: COLUMN, y: COLUMN}"
        raise ValueError(f"there is no figure '{kind}'; there are: {', '.join(there)}, and {more}")
    made, file = _kind(kind), file_name(kind)
    named = _named(made, table, isinstance(kind, str) and kind in OTHERS)
    with _style():
        pictures, tidy, lacking = _painted(made, named)
        missing = str(table.attrs.get("missing", ""))
        paths: list[Path] = []
        for number, paint in enumerate(pictures, 1):
            figure = paint()
            below = BELOW if figure.findobj(lambda artist: artist.get_gid() == "below") else ""
            page = f"picture {number} of {len(pictures)}" if len(pictures) > 1 else ""
            told = (page, _caption(made, named), below, missing, lacking)
            words = textwrap.wrap("; ".join(x for x in told if x), int(17 * figure.get_figwidth()))
            if words:
                figure.set_figheight(figure.get_figheight() + 0.11 * len(words))
                figure.suptitle("\n".join(words), fontsize=6.5, color="0.35")
            name = file if number == 1 else f"{file}-{number}"
            paths += _save(figure, tidy if number == 1 else None, folder / name)
            del figure
            gc.collect()  # a laid-out figure is a circle of references
        _forget(folder, file, len(pictures))
        return paths


def _forget(folder: Path, file: str, many: int) -> None:
    """Delete the pictures of an earlier drawing that had more of them."""
    for path in folder.glob(f"{file}-*.*"):
        number = path.stem.removeprefix(f"{file}-")
        if number.isdigit() and int(number) > many:
            path.unlink()


def caption(kind: str, table: pd.DataFrame) -> str:
    """What a figure says about itself: its lines and bands, over how many seeds, which targets."""
    return _caption(_kind(kind), _named(_kind(kind), table, kind in OTHERS))


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Loss and accuracy of one training run over its steps; ValueError where there is one row."""
    paint: Callable[[pd.DataFrame, str], tuple[Canvas, pd.DataFrame]]
    paint = import_module("sa.figure.curves").curves
    with _style():
        return _save(*paint(rows, title), folder / "curves")


def _kind(kind: str | Mapping[str, Any]) -> Kind:
    if not isinstance(kind, str):
        return lines.asked(kind).kind
    made: Kind = getattr(import_module(f"sa.figure.{kind}"), kind)
    return made


def _named(kind: Kind, table: pd.DataFrame, other: bool) -> pd.DataFrame:
    """The table with what its kind draws by, and with ``part``, what the kind leaves out."""
    named = table.reset_index(drop=True).copy()  # of one piece: columns follow
    if not other:
        named = prepared(named)
        if "run_id" not in named:
            named["run_id"] = named.index.astype(str)
        if "label" in kind.shows and named["label"].nunique() == 1:  # then hues are free
            shown = [c for c in kind.columns(named) if c.name != "label"]
            words = rest(named, shown)
            named["label"] = words.where(words != "", named["label"])
    return named.assign(part=rest(named, kind.columns(named)))


def _painted(
    kind: Kind, named: pd.DataFrame
) -> tuple[list[Callable[[], Figure]], pd.DataFrame, str]:
    """What paints each picture, a row of panels for each part; their table, and what they lack.

    A part without what the kind needs is left out, unless all are: then the ValueError is raised.
    """
    parts, lacking, tables, sizes, panels, whole = {}, {}, [], [], [], None
    for name, some in named.groupby("part", sort=False):
        try:
            figure, tidy = kind(some)
        except ValueError as error:
            lacking[str(name)] = error
            continue
        assert isinstance(figure, Figure)
        parts[str(name)], whole = some, whole or figure
        tables.append(tidy.assign(part=name))
        panels.append(len(figure.axes))
        sizes.append((float(figure.get_figwidth()), float(figure.get_figheight()) + 0.3))
    if whole is None:
        raise next(iter(lacking.values()))
    more = f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
    told = f"nothing to draw of: {', '.join([*lacking][:6])}{more}" if lacking else ""
    tidy = _with_settings(kind, named, pd.concat(tables, ignore_index=True))
    if len(parts) == 1:
        return [lambda: whole], tidy.drop(columns="part"), told
    chunks: list[list[Row]] = [[]]
    held = 0
    for row, many in zip(zip(parts.items(), sizes, strict=True), panels, strict=True):
        if chunks[-1] and held + many > PANELS:
            chunks.append([])
            held = 0
        chunks[-1].append(row)
        held += many
    return [partial(_stacked, kind, chunk) for chunk in chunks], tidy, told


Row = tuple[tuple[str, pd.DataFrame], tuple[float, float]]


def _stacked(kind: Kind, rows: Sequence[Row]) -> Figure:
    """One figure of several parts below each other, each ((name, table), (width, height))."""
    heights = [height for _, (_, height) in rows]
    whole = alone(max(width for _, (width, _) in rows), sum(heights))
    places = whole.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, ((part, some), _) in zip(places, rows, strict=True):
        kind(some, _only(place))
        place.suptitle(part, fontsize=9, fontweight="bold")
    return whole


def _only(canvas: Canvas) -> Sheet:
    """A sheet that is this part of a figure, of whatever size it was given."""
    return lambda width, height: canvas


def _with_settings(kind: Kind, named: pd.DataFrame, tidy: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with the settings that vary: by run, else by what the kind shows of it."""
    names = varied(named)
    on = ["run_id"] if "run_id" in tidy else _keys(kind, tidy)
    known = named[list(dict.fromkeys([*on, *names]))].drop_duplicates(on)
    free = {n: n if n not in tidy else f"config.{n}" for n in names if n not in on}
    out = tidy.merge(known.rename(columns=free), on=on, how="left")
    twice = [f for n, f in free.items() if f != n and out[f].map(key).equals(out[n].map(key))]
    return out.drop(columns=twice)


def _keys(kind: Kind, tidy: pd.DataFrame) -> list[str]:
    """The columns by which a row of several runs finds their settings."""
    shown = [c for c in kind.shows if isinstance(c, str)]
    return [c for c in dict.fromkeys(["part", "label", *shown]) if c in tidy]


def _caption(kind: Kind, named: pd.DataFrame) -> str:
    over = replicates(named)
    told = (over, kind.told, targets(named)) if kind.told else ()
    return "; ".join(x for x in told if x)


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(sns.axes_style("ticks") | STYLE):
        yield


def targets(table: pd.DataFrame) -> str:
    """Says so where the compared estimators estimate different things."""
    if "target" not in table or table["target"].nunique() < 2:
        return ""
    who = table["label"].str.split().str[0]
    if table.groupby(who)["target"].nunique().max() > 1:  # else settings tell nothing more
        who = table["label"]
    pairs = who.groupby(table["target"]).agg(lambda s: ", ".join(sorted(set(s))))
    if who.nunique() > 12:
        told = ", ".join(f"{names.count(', ') + 1} estimators {t}" for t, names in pairs.items())
    else:
        told = "; ".join(f"{names}: {t}" for t, names in pairs.items())
    return f"targets differ: {told}"


def _save(figure: Canvas, tidy: pd.DataFrame | None, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    assert isinstance(figure, Figure)
    thin(figure)
    figure.draw_without_rendering()  # lays it out, once for all formats
    figure.set_layout_engine("none")
    for end in ("png", "svg", "pdf") if tidy is None else ("png", "svg", "pdf", "csv"):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        try:
            if end == "csv" and tidy is not None:
                tidy.to_csv(temp, index=False)
            else:
                figure.savefig(temp, format=end, dpi=200)
            made.append(temp.replace(path.with_suffix(f".{end}")))
        finally:
            temp.unlink(missing_ok=True)
    return made
