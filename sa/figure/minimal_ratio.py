"""Points where a search for a zero gradient ended: minimal ratio and index against the loss."""

import pandas as pd
from matplotlib.ticker import NullFormatter

from sa.figure._axis import legend
from sa.figure._base import Canvas, Sheet, hues, kind, need, panels

STATUS = {"critical": "o", "stalled": "s", "unconverged": "x", "l1 route": "+"}

NAMES = "minimal ratio (eigenvalues > 0)", "index (eigenvalues < 0)"


def _activation(table: pd.DataFrame) -> pd.Series:
    activation: pd.Series = table["activation"]
    return table.get("model.activation", activation)


@kind(_activation, spread="a point: a run")
def minimal_ratio(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw minimal ratio and index against the loss, and |g| after the search against |g| before.

    Colours are activations, markers the status of the search; the legend counts the runs.
    """
    need(table, "critical_points/minimal_ratio", "critical_points/loss", "critical_points/status")
    runs = table[table["critical_points/status"].notna()]
    keys = ("minimal_ratio", "index", "loss", "norm", "norm_start", "status", "solver")
    tidy = pd.DataFrame({k: runs[f"critical_points/{k}"] for k in keys})
    tidy["kind"] = _activation(runs)
    tidy["run_id"] = runs["run_id"]
    tidy.loc[tidy["solver"] == "l1", "status"] = "l1 route"
    figure, axes = panels(sheet, 3)
    colours = hues(sorted(set(tidy["kind"])))
    for (activation, status), points in tidy.groupby(["kind", "status"]):
        style = {"color": colours[activation], "marker": STATUS[str(status)], "s": 14, "lw": 0.8}
        name = f"{activation}, {status} ({len(points)})"
        axes[0].scatter(points["loss"], points["minimal_ratio"], label=name, alpha=0.8, **style)
        axes[1].scatter(points["loss"], points["index"], alpha=0.8, **style)
        axes[2].scatter(points["norm_start"], points["norm"], alpha=0.8, **style)
    for axis, name in zip(axes, NAMES, strict=False):
        axis.set(xscale="log", xlabel="loss where the search ended", ylabel=name)
    ends = [tidy["norm_start"].min(), tidy["norm_start"].max()]
    axes[2].plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    axes[2].set(xscale="log", yscale="log", xlabel="gradient norm before the search")
    axes[2].set_ylabel("gradient norm after the search")
    for each in (axes[0].xaxis, axes[1].xaxis, axes[2].xaxis, axes[2].yaxis):
        each.set_minor_formatter(NullFormatter())
    axes[0].plot([], [], color="0.6", lw=0.8, label="gradient unchanged")
    legend(figure, axes[0])
    return figure, tidy
