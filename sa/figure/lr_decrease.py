"""The loss against the length of one step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sa.figure._axis import common, legend, mark_below, other, percent, shade_null, stack
from sa.figure._label import facets
from sa.figure._paper import MEANS, Canvas, Sheet, kind, need, palette, panels
from sa.table import names

CURVES = ("decrease", "decrease_heldout", "null_least", "null_most")


@kind("label", "facet", told=f"{MEANS}; grey band: random directions, least to most")
def lr_decrease(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Relative loss decrease against step length: a panel a dim or layer, a line an estimator.

    Held out dashed. A line reaches as far as all of its seeds were measured; a triangle marks where
    one goes on below the panel. Grey: from the least to the most of random directions.
    """
    need(table, "value", "descent/lr", "descent/decrease")
    there = table[table["descent/lr"].notna()]
    tidy = pd.concat([_curves(row) for _, row in there.iterrows()], ignore_index=True)
    shown = [f for f in facets(table) if f in set(tidy["facet"])]
    colours = palette(table["label"])
    figure, axes = panels(sheet, len(shown), sharey=True)
    low, high = _limits(tidy)
    for axis, facet in zip(axes, shown, strict=True):
        here = tidy[tidy["facet"] == facet]
        for label, colour in colours.items():
            mine = [g for _, g in here[here["label"] == label].groupby("run_id")]
            if mine:
                _lines(axis, mine, label, colour)
        mark_below(axis, low)
        _null(axis, [g for _, g in here.groupby("run_id")])
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(xscale="log", ylim=(low, high), title=facet)
        axis.set_xlabel(r"step length $\eta$ (direction of unit norm)")
        percent(axis.yaxis)
    axes[0].set_ylabel(names.DECREASE)
    if tidy["decrease_heldout"].notna().any():
        other(axes[0], "--", "held out")
    legend(figure, axes[0])
    return figure, tidy


def _curves(run: pd.Series) -> pd.DataFrame:
    """The curves of one run, relative to its loss; nan where they were not measured."""
    size = np.size(run["descent/lr"])
    found: dict[str, Any] = {k: run.get(f"descent/{k}") for k in CURVES}
    kept = {
        k: np.asarray(v, float) / run["value"] if np.size(v) == size else np.nan
        for k, v in found.items()
    }
    about = {k: run[k] for k in ("dim", "seed", "label", "facet", "run_id") if k in run}
    return pd.DataFrame({"lr": run["descent/lr"], **kept}).assign(**about)


def _limits(tidy: pd.DataFrame) -> tuple[float, float]:
    """What the panels show: of every run its lines up to the best step, and as much below 0."""
    best = tidy.groupby("run_id")["decrease"].transform("max")
    at = tidy["lr"].where(tidy["decrease"] == best).groupby(tidy["run_id"]).transform("min")
    early = tidy.loc[tidy["lr"] <= at, ["decrease", "decrease_heldout", "null_least"]]
    gains = tidy[["decrease", "decrease_heldout", "null_most"]]
    top = float(np.nanmax(gains.to_numpy(), initial=0.0))
    least = float(np.nanmin(early.to_numpy(), initial=0.0))
    top = top or -least or 1.0
    return max(1.15 * least, -top) - 0.2 * top, 1.1 * top


def _lines(axis: Axes, runs: Sequence[pd.DataFrame], label: str, colour: Any) -> None:
    grid = common(runs)
    on = stack(runs, grid, "decrease")
    axis.plot(grid, on.mean(0), color=colour, label=label)
    axis.fill_between(grid, on.min(0), on.max(0), color=colour, alpha=0.15, lw=0)
    held = stack(runs, grid, "decrease_heldout").mean(0)
    if np.isfinite(held).any():
        axis.plot(grid, held, "--", color=colour)


def _null(axis: Axes, runs: Sequence[pd.DataFrame]) -> None:
    """Shade from the least to the most of random directions, of all runs that measured them."""
    runs = [r for r in runs if r[["null_least", "null_most"]].notna().all(axis=None)]
    if runs:
        grid = common(runs)
        low, high = stack(runs, grid, "null_least").min(0), stack(runs, grid, "null_most").max(0)
        shade_null(axis, grid, low, high, "random directions")
