"""Draws a kind, named as its file is, from a table: <kind>.png, .svg, .pdf and .csv."""

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure._apart import replicates, rest, settings, varied
from sa.figure._label import prepared
from sa.figure._paper import STYLE, Canvas, Kind, Sheet, alone
from sa.grouping import configurations, key

OTHERS = {"bands": "evaluated steps", "trajectories": "points of trainings"}
"""Kinds that are drawn from another table than that of runs, and what it holds."""

FITTING = {
    "descent/lr": ("lr_decrease", "best_decrease"),
    "alignment/cosine": ("alignment",),
    "smoothing/cosine": ("calibration",),
    "quant_error/worst": ("quant_error",),
    "sensitivity_bits/layers": ("sensitivity_bits",),
    "blocks/order": ("blocks",),
    "critical_points/status": ("minimal_ratio",),
    "gradient_norm/full": ("gradient_norm",),
    "interpolation/alpha": ("interpolation",),
    "function_curve/value": ("function_curve",),
    "surface/losses": ("surface",),
}
"""The kinds that a sweep draws which names none, by a column that they need."""


BELOW = "triangles: the line goes on below the panel"
"""What the caption of a figure says where `mark_below` has drawn one."""


def kinds() -> list[str]:
    """The figure kinds drawn from a table of runs."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted({p.stem for p in files} - {"draw", "curves", *OTHERS})


def fitting(table: pd.DataFrame) -> list[str]:
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


def draw(kind: str, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind from its table: <folder>/<kind>.png, .svg, .pdf and .csv, the tidy table.

    Runs that differ in a setting that the kind does not show by itself are drawn in rows of panels
    of their own, and the tidy table has every setting that varies. ``table.attrs["settings"]``
    names the columns that are settings; ``table.attrs["missing"]`` says which runs of the sweep
    the table lacks, and is written below the figure's caption.

    Raises ValueError for an unknown kind (naming those there are) or a missing column.
    """
    if kind not in (there := sorted([*kinds(), *OTHERS])):
        raise ValueError(f"there is no figure '{kind}'; there are: {', '.join(there)}")
    made = _kind(kind)
    named = _named(made, table, kind in OTHERS)
    with _style():
        figure, tidy, lacking = _painted(made, named)
        missing = str(table.attrs.get("missing", ""))
        below = BELOW if figure.findobj(lambda artist: artist.get_gid() == "below") else ""
        words = "; ".join(x for x in (_caption(made, named), below, missing, lacking) if x)
        told = textwrap.wrap(words, int(17 * figure.get_figwidth()))
        if told:
            figure.set_figheight(figure.get_figheight() + 0.11 * len(told))
            figure.suptitle("\n".join(told), fontsize=6.5, color="0.35")
        return _save(figure, tidy, folder / kind)


def caption(kind: str, table: pd.DataFrame) -> str:
    """What a figure says about itself: its lines and bands, over how many seeds, which targets."""
    return _caption(_kind(kind), _named(_kind(kind), table, kind in OTHERS))


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Loss and accuracy of one training run over its steps; ValueError where there is one row."""
    paint: Callable[[pd.DataFrame, str], tuple[Canvas, pd.DataFrame]]
    paint = import_module("sa.figure.curves").curves
    with _style():
        return _save(*paint(rows, title), folder / "curves")


def _kind(name: str) -> Kind:
    made: Kind = getattr(import_module(f"sa.figure.{name}"), name)
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


def _painted(kind: Kind, named: pd.DataFrame) -> tuple[Figure, pd.DataFrame, str]:
    """The figure, a row of panels for each part, its tidy table, and which parts it lacks.

    A part without what the kind needs is left out, unless all are: then the ValueError is raised.
    """
    parts, lacking, drafts = {}, {}, []
    for name, some in named.groupby("part", sort=False):
        try:
            figure, tidy = kind(some)
        except ValueError as error:
            lacking[str(name)] = error
            continue
        parts[str(name)] = some
        drafts.append((figure, tidy.assign(part=name)))
    if not drafts:
        raise next(iter(lacking.values()))
    told = f"nothing to draw of: {', '.join(lacking)}" if lacking else ""
    tidy = _with_settings(kind, named, pd.concat([t for _, t in drafts], ignore_index=True))
    whole = drafts[0][0]
    if len(parts) == 1 and isinstance(whole, Figure):
        return whole, tidy.drop(columns="part"), told
    sizes = [f.get_size_inches() for f, _ in drafts if isinstance(f, Figure)]
    heights = [float(h) + 0.3 for _, h in sizes]
    whole = alone(max(float(w) for w, _ in sizes), sum(heights))
    rows = whole.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, (part, some) in zip(rows, parts.items(), strict=True):
        kind(some, _only(row))
        row.suptitle(part, fontsize=9, fontweight="bold")
    return whole, tidy, told


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


def _save(figure: Canvas, tidy: pd.DataFrame, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # lays it out, once for all formats
    figure.set_layout_engine("none")
    for end in ("png", "svg", "pdf", "csv"):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        try:
            if end == "csv":
                tidy.to_csv(temp, index=False)
            else:
                figure.savefig(temp, format=end, dpi=200)
            made.append(temp.replace(path.with_suffix(f".{end}")))
        finally:
            temp.unlink(missing_ok=True)
    return made
