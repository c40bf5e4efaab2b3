"""Loss decrease against the length of one step along the gradient estimate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sa.figure._axis import (
    common_grid,
    interpolated,
    legend,
    legend_entry,
    mark_below,
    percent,
    shade_null,
    step_lengths,
)
from sa.figure._base import MEANS, Canvas, Sheet, kind, need, palette, panels
from sa.figure._label import facets
from sa.table import names

CURVES = ("decrease", "decrease_heldout", "null_least", "null_most")


@kind("label", "facet", spread=f"{MEANS}; grey band: random directions, least to most")
def lr_decrease(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the relative decrease against step length, with a panel for each dim or layer.

    Held-out rows are dashed. A line ends where a seed was not measured further; a triangle marks
    a line that continues below the panel. The grey band is the range of random directions.
    """
    need(table, "value", "descent/lr", "descent/decrease")
    runs = table[table["descent/lr"].notna()]
    tidy = pd.concat([_curves(run) for _, run in runs.iterrows()], ignore_index=True)
    shown = [f for f in facets(table) if f in set(tidy["facet"])]
    colours = palette(table["label"])
    figure, axes = panels(sheet, len(shown), sharey=True)
    low, high = _limits(tidy)
    for axis, facet in zip(axes, shown, strict=True):
        here = tidy[tidy["facet"] == facet]
        for label, colour in colours.items():
            curves = [g for _, g in here[here["label"] == label].groupby("run_id")]
            if curves:
                step_lengths(axis, curves, "decrease_heldout", label, colour)
        mark_below(axis, low)
        _null(axis, [g for _, g in here.groupby("run_id")])
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(xscale="log", ylim=(low, high), title=facet)
        axis.set_xlabel(r"step length $\eta$ (direction of unit norm)")
        percent(axis.yaxis)
    axes[0].set_ylabel(names.DECREASE)
    if tidy["decrease_heldout"].notna().any():
        legend_entry(axes[0], "--", "held-out rows")
    legend(figure, axes[0], title=table.attrs.get("hue", ""))
    return figure, tidy


def _curves(run: pd.Series) -> pd.DataFrame:
    """Return the curves of one run, relative to its loss; NaN if they were not measured."""
    size = np.size(run["descent/lr"])
    found: dict[str, Any] = {k: run.get(f"descent/{k}") for k in CURVES}
    curves = {
        k: np.asarray(v, float) / run["value"] if np.size(v) == size else np.nan
        for k, v in found.items()
    }
    about = {k: run[k] for k in ("dim", "seed", "label", "facet", "run_id") if k in run}
    return pd.DataFrame({"lr": run["descent/lr"], **curves}).assign(**about)


def _limits(tidy: pd.DataFrame) -> tuple[float, float]:
    """Return the y limits: each run's lines up to its best step, and at most as much below 0."""
    best = tidy.groupby("run_id")["decrease"].transform("max")
    at = tidy["lr"].where(tidy["decrease"] == best).groupby(tidy["run_id"]).transform("min")
    early = tidy.loc[tidy["lr"] <= at, ["decrease", "decrease_heldout", "null_least"]]
    gains = tidy[["decrease", "decrease_heldout", "null_most"]]
    top = float(np.nanmax(gains.to_numpy(), initial=0.0))
    least = float(np.nanmin(early.to_numpy(), initial=0.0))
    top = top or -least or 1.0
    return max(1.15 * least, -top) - 0.2 * top, 1.1 * top


def _null(axis: Axes, runs: Sequence[pd.DataFrame]) -> None:
    """Shade the range of random directions, over the runs that measured them."""
    runs = [r for r in runs if r[["null_least", "null_most"]].notna().all(axis=None)]
    if runs:
        grid = common_grid(runs)
        low = interpolated(runs, grid, "null_least").min(0)
        high = interpolated(runs, grid, "null_most").max(0)
        shade_null(axis, grid, low, high, "random directions")
