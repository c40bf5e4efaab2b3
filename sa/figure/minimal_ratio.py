"""Which kind of point a vanishing gradient is at: minimal ratio and index against loss."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sa.figure._paper import need, panels

STATUS = {"critical": "o", "stalled": "s", "unconverged": "x", "l1 route": "+"}

NAMES = "minimal ratio (eigenvalues > 0)", "index (eigenvalues < 0)"


def minimal_ratio(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A point a run, by its status: minimal ratio and index against loss, |g| against before.

    Activations by colour; the number of runs in the legend.
    """
    need(table, "critical_points/minimal_ratio", "critical_points/loss", "critical_points/status")
    mine = table[table["critical_points/status"].notna()]
    keys = ("minimal_ratio", "index", "loss", "norm", "norm_start", "status", "solver")
    tidy = pd.DataFrame({k: mine[f"critical_points/{k}"] for k in keys})
    tidy["kind"] = mine.get("model.activation", mine["activation"])
    tidy.loc[tidy["solver"] == "l1", "status"] = "l1 route"
    figure, axes = panels(3)
    colours = dict(zip(sorted(set(tidy["kind"])), sns.color_palette("colorblind"), strict=False))
    for (kind, status), some in tidy.groupby(["kind", "status"]):
        style = {"color": colours[kind], "marker": STATUS[str(status)], "s": 14, "lw": 0.8}
        name = f"{kind}, {status} ({len(some)})"
        axes[0].scatter(some["loss"], some["minimal_ratio"], label=name, alpha=0.8, **style)
        axes[1].scatter(some["loss"], some["index"], alpha=0.8, **style)
        axes[2].scatter(some["norm_start"], some["norm"], alpha=0.8, **style)
    for axis, name in zip(axes, NAMES, strict=False):
        axis.set(xscale="log", xlabel="loss where the search ended", ylabel=name)
    ends = [tidy["norm_start"].min(), tidy["norm_start"].max()]
    axes[2].plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    axes[2].set(xscale="log", yscale="log", xlabel="gradient norm before the search")
    axes[2].set_ylabel("gradient norm after the search")
    for each in (axes[0].xaxis, axes[1].xaxis, axes[2].xaxis, axes[2].yaxis):
        each.set_minor_formatter(NullFormatter())
    axes[0].plot([], [], color="0.6", lw=0.8, label="gradient unchanged")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure, tidy
