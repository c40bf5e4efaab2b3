"""Generalisation gap of a grid of trainings, against the sharpness where they ended."""

from itertools import cycle

import pandas as pd

from sa.figure._axis import legend
from sa.figure._base import Canvas, Sheet, hues, kind, need, panels, tau_label
from sa.table.results import numbers

MEASURES = {
    "sharpness/lambda_max": r"$\lambda_{max}$",
    "sharpness/keskar": "Keskar's sharpness (%)",
    "sharpness/sam": "SAM sharpness",
    "sharpness/asam": "adaptive SAM sharpness",
}


@kind(
    "configuration",
    spread="a mark: a training; τ: over the grid within a seed, mean [least, most]",
)
def sharpness_gap(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw test loss minus training loss against each measure of sharpness.

    Colours are configurations, markers seeds. Kendall's tau is taken within each seed, because the
    gap differs between seeds; titles give its mean, least and most over seeds.
    """
    measures = [c for c in MEASURES if c in table and numbers(table, c).notna().any()]
    need(table, "train/loss", "test/loss", *measures[:1] or ["sharpness/lambda_max"])
    tidy = table[["configuration", "seed", "run_id"]].assign(
        gap=numbers(table, "test/loss") - numbers(table, "train/loss"),
        **{c: numbers(table, c) for c in measures},
    )
    colours = hues(list(dict.fromkeys(tidy["configuration"])))
    marks = dict(zip(sorted(set(tidy["seed"])), cycle("os^vD<>pP*X"), strict=False))
    figure, axes = panels(sheet, len(measures), sharey=True)
    for axis, column in zip(axes, measures, strict=True):
        for (name, seed), runs in tidy.groupby(["configuration", "seed"], sort=False):
            axis.plot(runs[column], runs["gap"], marks[seed], ms=3, alpha=0.8,
                      color=colours[name], label=name)  # fmt: skip
        axis.set(xlabel=MEASURES[column], title=tau_label(tidy, column, "gap"))
        low, high = tidy[column].min(), tidy[column].max()
        if low > 0 and high > 10 * low:
            axis.set_xscale("log")
    axes[0].set_ylabel(f"test loss − training loss\n({len(tidy)} trainings, a marker per seed)")
    legend(figure, axes[0])
    return figure, tidy
