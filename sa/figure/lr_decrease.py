"""The loss against the length of one step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import faceted, legend, need, palette, panels, shade_null


def lr_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Relative loss decrease against step length: a panel a dim or layer, a line an estimator.

    Mean over seeds with their range as a band; held out dashed; the null's best shaded.
    """
    need(table, "dim", "value", "descent/lr", "descent/decrease")
    table, facets = faceted(table)
    names = ["decrease", "decrease_heldout"]
    tidy = pd.concat(
        [
            pd.DataFrame(
                {"lr": row["descent/lr"]}
                | {k: np.asarray(row[f"descent/{k}"]) / row["value"] for k in names if _has(row, k)}
            ).assign(
                dim=row["dim"],
                facet=row["facet"],
                label=row["label"],
                seed=row.get("seed"),
                null_best=row.get("descent/null_best", np.nan) / row["value"],
            )
            for _, row in table[table["descent/lr"].notna()].iterrows()
        ]
    )
    facets, colours = [f for f in facets if f in set(tidy["facet"])], palette(tidy["label"])
    figure, axes = panels(len(facets), sharey=True)
    top = tidy["decrease"].max()
    for axis, facet in zip(axes, facets, strict=True):
        here = tidy[tidy["facet"] == facet]
        grid = _common(here)
        for label, colour in colours.items():
            mine = [g for _, g in here[here["label"] == label].groupby("seed", dropna=False)]
            if not mine:
                continue
            on = _stack(mine, grid, "decrease")
            axis.plot(grid, on.mean(0), color=colour, label=label)
            axis.fill_between(grid, on.min(0), on.max(0), color=colour, alpha=0.15, lw=0)
            if "decrease_heldout" in here:
                axis.plot(grid, _stack(mine, grid, "decrease_heldout").mean(0), "--", color=colour)
        if "null_best" in here:
            shade_null(axis, [grid[0], grid[-1]], [here["null_best"].mean()] * 2)
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(xscale="log", ylim=(-0.5 * top, 1.1 * top), title=facet)
        axis.set_xlabel(r"step length $\eta$ (direction of unit norm)")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    axes[0].set_ylabel("loss decrease / loss")
    legend(figure, axes[0], "held out" if "decrease_heldout" in tidy else None)
    return figure, tidy


def _has(row: Any, name: str) -> bool:
    value = row.get(f"descent/{name}")
    return value is not None and np.size(value) == np.size(row["descent/lr"])


def _common(rows: pd.DataFrame) -> np.ndarray:
    """One log grid over the step lengths of all lines, which differ by refinement."""
    return np.geomspace(rows["lr"].min(), rows["lr"].max(), 120)


def _stack(groups: Sequence[pd.DataFrame], grid: np.ndarray, column: str) -> np.ndarray:
    """Lines (seeds, grid), linear in log step length; beyond a line's own range nan-free ends."""
    return np.stack([np.interp(np.log(grid), np.log(g["lr"]), g[column]) for g in groups])
