"""Draws a kind, named as its file is, from a table: <kind>.png, .svg and .csv."""

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

from sa.figure._paper import STYLE, labelled

OTHERS = {"bands": "evaluated steps", "trajectories": "points of trainings"}
"""Kinds that are drawn from another table than that of runs, and what it holds."""


def kinds() -> list[str]:
    """The figure kinds drawn from a table of runs."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted({p.stem for p in files} - {"draw", "curves", *OTHERS})


def draw(kind: str, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind from its table: <folder>/<kind>.png, .svg and .csv, the tidy table.

    Raises ValueError for an unknown kind (naming those there are) or a missing column.
    """
    if kind not in (there := sorted([*kinds(), *OTHERS])):
        raise ValueError(f"there is no figure '{kind}'; there are: {', '.join(there)}")
    named = labelled(table)
    with _style():
        figure, tidy = _make(kind)(named)
        told = textwrap.wrap(targets(named), int(16 * figure.get_figwidth()))
        if told:
            figure.suptitle("\n".join(told), fontsize=6.5, color="0.35")
        return _save(figure, tidy, folder / kind)


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Loss and accuracy of one training run over its steps; ValueError where there is one row."""
    with _style():
        return _save(*_make("curves")(rows, title), folder / "curves")


def _make(kind: str) -> Callable[..., tuple[Figure, pd.DataFrame]]:
    made: Callable[..., tuple[Figure, pd.DataFrame]]
    made = getattr(import_module(f"sa.figure.{kind}"), kind)
    return made


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


def _save(figure: Figure, tidy: pd.DataFrame, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    for end, write in (
        ("png", lambda p: figure.savefig(p, format="png", dpi=200)),
        ("svg", lambda p: figure.savefig(p, format="svg")),
        ("csv", lambda p: tidy.to_csv(p, index=False)),
    ):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        try:
            write(temp)
            made.append(temp.replace(path.with_suffix(f".{end}")))
        finally:
            temp.unlink(missing_ok=True)
    return made
