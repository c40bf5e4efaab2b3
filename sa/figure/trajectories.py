"""Paths of trainings in the plane of their principal components."""

import pandas as pd
from matplotlib.axes import Axes

from sa.figure._axis import legend, legend_entry
from sa.figure._base import PANEL, Canvas, Sheet, hues, kind, need

VIEWS = {
    "joint": "one plane for all",
    "centred": "one plane, starts moved to 0",
    "own": "a plane for each training",
    "walk": "control: random walks",
}
CONTROLS = {"joint": "walk", "centred": "walk centred", "own": "walk own"}
"""The random walks that each view is compared with."""


@kind(spread="")
def trajectories(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the paths, with rows for the whole model and for a layer, and a column for each view.

    The bars of the inset are the explained shares of the components. The dots are the shares of
    random walks.
    """
    need(table, "what", "scope", "view")
    scopes = list(dict.fromkeys(table["scope"]))
    figure = sheet(1.8 * PANEL, 0.52 * PANEL * len(scopes) + 0.3)
    axes = figure.subplots(len(scopes), len(VIEWS), squeeze=False)
    colours = hues(list(table["run"].dropna().unique()))
    for across, scope in zip(axes, scopes, strict=True):
        for axis, (view, title) in zip(across, VIEWS.items(), strict=True):
            here = table[(table["scope"] == scope) & (table["view"] == view)]
            for run, path in here[here["what"] == "point"].groupby("run", sort=False):
                axis.plot(path["pc1"], path["pc2"], lw=0.8, color=colours[run])
                axis.plot(path["pc1"].iloc[:1], path["pc2"].iloc[:1], ".", ms=4, color="0.5")
                axis.plot(path["pc1"].iloc[-1:], path["pc2"].iloc[-1:], "o", ms=2.5,
                          color=colours[run])  # fmt: skip
            control = table[(table["scope"] == scope) & (table["view"] == CONTROLS.get(view))]
            shares, walks = (x[x["what"] == "share"]["share"].tolist() for x in (here, control))
            _explained(axis, shares, walks, f"{scope}\n{title}")
    axes[0][0].plot([], [], ".", ms=4, color="0.5", label="start")
    axes[0][0].plot([], [], "o", ms=2.5, color="0.2", label="end")
    axes[0][0].plot([], [], ".", ms=4, color="C3", label="inset: explained shares of random walks")
    for run, colour in colours.items():
        legend_entry(axes[0][0], "-", str(run), color=colour)
    legend(figure, axes[0][0])
    return figure, table


def _explained(axis: Axes, shares: list[float], control: list[float], title: str) -> None:
    """Set title and labels of a panel, and draw the explained shares in an inset."""
    first, second = ([*shares, 0.0, 0.0])[:2]
    axis.set_xlabel(f"PC 1 ({first:.0%})", fontsize=6.5)
    axis.set_ylabel(f"PC 2 ({second:.0%})", fontsize=6.5)
    axis.set_title(title, fontsize=6)
    axis.tick_params(labelsize=5)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.5 * (high - low))  # room for the shares
    scree = axis.inset_axes((0.72, 0.72, 0.28, 0.28))
    scree.bar(range(1, len(shares[:8]) + 1), shares[:8], color="0.6")
    scree.plot(range(1, len(control[:8]) + 1), control[:8], ".", ms=2, color="C3")
    scree.set(ylim=(0, 1), xticks=[], yticks=[0, 1])
    scree.tick_params(labelsize=4, length=1.5)
    scree.patch.set_alpha(0.7)
