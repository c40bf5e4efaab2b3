"""The loss on planes through the points of runs."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter

from sa.figure._axis import legend
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need

MOST = 12
"""So many panels; of more runs the first seed's are drawn."""

LEVELS = 24
"""Contours between the least and the largest loss of all runs."""

NAMES = {
    "random": "random direction {} (norms of filters)",
    "eigenvectors": "eigenvector {} (norms of the point)",
    "pca": "PC {} (ways from start to end)",
}
"""What the axes are, and their unit."""


@kind("told", told="a panel a run")
def surface(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """A panel a run (of more than twelve: of the first seed), one scale of colours for all.

    It goes by the logarithm where all losses are above 0. The run's point is marked, and of its
    principal plane the way there. Of quantized networks the view is told.
    """
    need(table, "surface/losses", "surface/at")
    table = table[table["surface/losses"].notna()]
    if len(table) > MOST:
        table = table[table["seed"] == table["seed"].min()]
    titles, runs = (
        _titles(table),
        [{str(k): v for k, v in r.items()} for r in table.to_dict("records")],
    )
    kinds = [str(run.get("analysis.surface.axes", "random")) for run in runs]
    reach = {
        k: max(max(r["surface/at"]) for r, x in zip(runs, kinds, strict=True) if x == k)
        for k in kinds
    }
    values = np.concatenate([np.array(run["surface/losses"]) for run in runs])
    least, most = float(values.min()), float(values.max())
    most = max(most, least + 1e-12)
    scale = LogNorm(least, most) if least > 0 else Normalize(least, most)
    levels = (np.geomspace if least > 0 else np.linspace)(least, most, LEVELS)
    figure, axes = _panels(sheet, kinds, titles)
    tidy = []
    for axis, run, plane, title in zip(axes, runs, kinds, titles, strict=True):
        ticks = np.array(run["surface/at"])
        losses = np.array(run["surface/losses"]).reshape(len(ticks), len(ticks))
        axis.contourf(ticks, ticks, losses, levels, norm=scale, cmap="viridis", extend="both")
        axis.contour(ticks, ticks, losses, levels[::2], colors="0.9", linewidths=0.35)
        if plane == "pca":
            way = run["surface/path/a"], run["surface/path/b"]
            axis.plot(*way, ".-", color="white", lw=0.8, ms=2.5)
            axis.plot(*[x[:1] for x in way], "o", color="white", ms=4, mfc="none")
        axis.plot(0, 0, "*", color="C3", ms=7, mec="white", mew=0.5)
        names = (NAMES[plane].format(i) + _more(run, plane, i) for i in (1, 2))
        axis.set(**dict(zip(("xlabel", "ylabel"), names, strict=True)), title=title)
        axis.set(xlim=(-reach[plane], reach[plane]), ylim=(-reach[plane], reach[plane]))
        for text in (axis.xaxis.label, axis.yaxis.label, axis.title):
            text.set_fontsize(5.5)
        axis.tick_params(labelsize=5.5)
        axis.locator_params(nbins=5)
        axis.set_box_aspect(1)
        a, b = np.meshgrid(ticks, ticks)
        one = {
            "run": title.replace("\n", " "),
            "axes": plane,
            "run_id": run["run_id"],
            "a": a.ravel(),
            "b": b.ravel(),
        }
        tidy.append(pd.DataFrame({**one, "loss": losses.ravel()}))
    bar = figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes, shrink=0.7)
    bar.set_label("loss (mean over rows), one scale for all panels")
    if least > 0:
        short = FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "125" else "")
        bar.ax.yaxis.set_major_formatter(short)
        bar.ax.yaxis.set_minor_formatter(short)
    axes[0].plot([], [], "*", color="C3", ms=7, mec="white", label="the run's point")
    if "pca" in kinds:
        axes[0].plot([], [], ".-", color="0.6", label="points kept on the way, start as a ring")
    legend(figure, axes[0])
    return figure, pd.concat(tidy, ignore_index=True)


def _panels(sheet: Sheet, kinds: Sequence[str], titles: Sequence[str]) -> tuple[Canvas, list[Axes]]:
    """A square panel a run: a row a kind of plane, or of one kind rows of four."""
    rows, columns = list(dict.fromkeys(kinds)), list(dict.fromkeys(titles))
    cells = [(rows.index(k), columns.index(t)) for k, t in zip(kinds, titles, strict=True)]
    if len(rows) == 1 or not len(set(cells)) == len(cells) == len(rows) * len(columns):
        cells = [divmod(i, min(4, len(kinds))) for i in range(len(kinds))]
    down, across = (max(c) + 1 for c in zip(*cells, strict=True))
    size = 0.6 * PANEL
    figure = sheet(max(4.2, 0.9 + size * across), 0.6 + size * down)
    grid = figure.subplots(down, across, squeeze=False)
    for at, axis in np.ndenumerate(grid):
        if at not in cells:
            axis.remove()
    return figure, [grid[cell] for cell in cells]


def _titles(table: pd.DataFrame) -> list[str]:
    """What each run varies beside its plane, and of quantized networks the view."""
    names = table["told"].astype(str).str.replace(r"\b(axes|reach)=\S+", "", regex=True).str.strip()
    hard = table.get("quantized", pd.Series("nothing", index=table.index)) != "nothing"
    views = table.get("analysis.surface.view", pd.Series("latent", index=table.index))
    names = names.where(~hard | names.str.contains("view="), names + " view=" + views.astype(str))
    if table["seed"].nunique() > 1:
        names = names.replace("the defaults", "") + " seed=" + table["seed"].astype(int).astype(str)
    return [textwrap.fill(x.strip(), 36) for x in names]


def _more(run: dict[str, Any], kind: str, number: int) -> str:
    """What else is known of a direction."""
    if kind == "pca":
        return f", {run[f'surface/share_{number}']:.0%} of variance"
    return f", $\\lambda$ {run[f'surface/lambda_{number}']:.3g}" if kind != "random" else ""
