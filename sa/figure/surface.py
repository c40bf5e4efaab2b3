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
from sa.figure._base import PANEL, Canvas, Sheet, kind, need

MOST = 12
"""The most panels; of more runs only the first seed's are drawn."""

LEVELS = 24
"""Contours between the least and the largest loss of all runs."""

NAMES = {
    "random": "random direction {} (filter-normalised)",
    "eigenvectors": "eigenvector {} (unit: norm of the point)",
    "pca": "PC {} (unit: start to end)",
}
"""Axis labels by kind of plane, with their unit."""


@kind("configuration", spread="a panel: a run")
def surface(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the loss on the plane of each run, with one scale of colours for all panels.

    A star marks the run's point. The plane of principal components also shows the training's path.
    """
    need(table, "surface/losses", "surface/at")
    table = table[table["surface/losses"].notna()]
    if len(table) > MOST:
        table = table[table["seed"] == table["seed"].min()]
    titles = _titles(table)
    runs = [{str(k): v for k, v in r.items()} for r in table.to_dict("records")]
    planes = [str(run.get("analysis.surface.axes", "random")) for run in runs]
    reach = {
        k: max(max(r["surface/at"]) for r, x in zip(runs, planes, strict=True) if x == k)
        for k in planes
    }
    values = np.concatenate([np.array(run["surface/losses"]) for run in runs])
    least, most = float(values.min()), float(values.max())
    most = max(most, least + 1e-12)
    scale = LogNorm(least, most) if least > 0 else Normalize(least, most)
    levels = (np.geomspace if least > 0 else np.linspace)(least, most, LEVELS)
    figure, axes = _panels(sheet, planes, titles)
    tidy = []
    for axis, run, plane, title in zip(axes, runs, planes, titles, strict=True):
        ticks = np.array(run["surface/at"])
        losses = np.array(run["surface/losses"]).reshape(len(ticks), len(ticks))
        axis.contourf(ticks, ticks, losses, levels, norm=scale, cmap="viridis", extend="both")
        axis.contour(ticks, ticks, losses, levels[::2], colors="0.9", linewidths=0.35)
        _dress(axis, run, plane, title, reach[plane])
        a, b = np.meshgrid(ticks, ticks)
        about = {"run": title.replace("\n", " "), "axes": plane, "run_id": run["run_id"]}
        points = {"a": a.ravel(), "b": b.ravel(), "loss": losses.ravel()}
        tidy.append(pd.DataFrame({**about, **points}))
    bar = figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes, shrink=0.7)
    bar.set_label("loss (mean over rows),\none scale for all panels", fontsize=6.5)
    if least > 0:
        few = FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "125" else "")
        bar.ax.yaxis.set_major_formatter(few)
        bar.ax.yaxis.set_minor_formatter(few)
    axes[0].plot([], [], "*", color="C3", ms=7, mec="white", label="the run's point")
    if "pca" in planes:
        axes[0].plot([], [], ".-", color="0.6", label="snapshots of the training; ring: its start")
    legend(figure, axes[0])
    return figure, pd.concat(tidy, ignore_index=True)


def _dress(axis: Axes, run: dict[str, Any], plane: str, title: str, reach: float) -> None:
    """Draw the run's point and path, and set title, labels and limits of a panel."""
    if plane == "pca":
        path = run["surface/path/a"], run["surface/path/b"]
        axis.plot(*path, ".-", color="white", lw=0.8, ms=2.5)
        axis.plot(*[x[:1] for x in path], "o", color="white", ms=4, mfc="none")
    axis.plot(0, 0, "*", color="C3", ms=7, mec="white", mew=0.5)
    x, y = (NAMES[plane].format(i) + _explained(run, plane, i) for i in (1, 2))
    axis.set(xlabel=x, ylabel=y, title=title, xlim=(-reach, reach), ylim=(-reach, reach))
    for text in (axis.xaxis.label, axis.yaxis.label, axis.title):
        text.set_fontsize(5.5)
    axis.tick_params(labelsize=5.5)
    axis.locator_params(nbins=5)
    axis.set_box_aspect(1)


def _panels(
    sheet: Sheet, planes: Sequence[str], titles: Sequence[str]
) -> tuple[Canvas, list[Axes]]:
    """Return a square panel a run: a row for each kind of plane, or rows of four for one kind."""
    rows, columns = list(dict.fromkeys(planes)), list(dict.fromkeys(titles))
    cells = [(rows.index(k), columns.index(t)) for k, t in zip(planes, titles, strict=True)]
    if len(rows) == 1 or not len(set(cells)) == len(cells) == len(rows) * len(columns):
        cells = [divmod(i, min(4, len(planes))) for i in range(len(planes))]
    down, across = (max(c) + 1 for c in zip(*cells, strict=True))
    size = 0.6 * PANEL
    figure = sheet(max(4.2, 0.9 + size * across), 0.6 + size * down)
    grid = figure.subplots(down, across, squeeze=False)
    for at, axis in np.ndenumerate(grid):
        if at not in cells:
            axis.remove()
    return figure, [grid[cell] for cell in cells]


def _titles(table: pd.DataFrame) -> list[str]:
    """Return the settings of each run beside its plane, and the view of a quantized network."""
    names = table["configuration"].astype(str)
    names = names.str.replace(r"\b(axes|reach)=\S+", "", regex=True).str.strip()
    hard = table.get("quantized", pd.Series("nothing", index=table.index)) != "nothing"
    views = table.get("analysis.surface.view", pd.Series("latent", index=table.index))
    names = names.where(~hard | names.str.contains("view="), names + " view=" + views.astype(str))
    if table["seed"].nunique() > 1:
        names = names.replace("the defaults", "") + " seed=" + table["seed"].astype(int).astype(str)
    return [textwrap.fill(x.strip(), 36) for x in names]


def _explained(run: dict[str, Any], plane: str, number: int) -> str:
    """Return the variance or the eigenvalue of a direction, for its label."""
    if plane == "pca":
        return f", {run[f'surface/share_{number}']:.0%} of variance"
    return f", $\\lambda$ {run[f'surface/lambda_{number}']:.3g}" if plane != "random" else ""
