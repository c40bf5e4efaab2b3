"""Cost of a weight flip after a training, against the cosine of the estimator to CDG."""

import pandas as pd
from matplotlib.lines import Line2D

from sa.figure._axis import legend
from sa.figure._base import MISSED, PANEL, Canvas, Sheet, kind, need, palette, rows_of, tau_label
from sa.table.results import numbers

COSINES = {
    "path": "cosine to CDG, mean over the training",
    "end": "cosine to CDG where it ends",
}
FLIPS = {"mean": "mean change of the loss by a flip", "most": "largest change of the loss"}


@kind("label", spread="a dot: a training; τ: mean over seeds [least, most]")
def aligned_flips(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the mean and the largest cost of a flip against the cosine; colours are estimators.

    Titles give Kendall's tau over the estimators of each seed: mean, least and most over seeds.
    Trainings that missed the goal of ``until`` are left out, and the legend counts them.
    """
    need(table, "alignment/cosine", "sharpness/flip_mean", "sharpness/flip_max", "stopped")
    reached = table["stopped"].notna() & ~table["stopped"].astype(str).str.match(MISSED)
    if not reached.any():
        raise ValueError("no training reached the goal of until={...}; give them more steps")
    runs, rows = table[reached], rows_of(table)
    tidy = runs[["label", "seed", "run_id"]].assign(
        path=[numbers(rows(run), "alignment/cosine").mean() for _, run in runs.iterrows()],
        end=numbers(runs, "alignment/cosine"),
        mean=numbers(runs, "sharpness/flip_mean"),
        most=numbers(runs, "sharpness/flip_max"),
        step=numbers(runs, "step"),
    )
    figure = sheet(2.1 * PANEL, 1.75 * PANEL)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    colours = palette(tidy["label"])
    for line, (flip, what) in zip(axes, FLIPS.items(), strict=True):
        for axis, (cosine, where) in zip(line, COSINES.items(), strict=True):
            for label, colour in colours.items():
                dots = tidy[tidy["label"] == label]
                axis.plot(dots[cosine], dots[flip], "o", ms=3.5, alpha=0.8, color=colour)
            axis.set_title(tau_label(tidy, cosine, flip))
            axis.set(
                xlabel=where if flip == "most" else "", ylabel=what if cosine == "path" else ""
            )
    keys = [Line2D([], [], ls="", marker="o", ms=3.5, color=c, label=k) for k, c in colours.items()]
    missed = int((~reached).sum())
    title = f"{missed} of {len(table)} trainings missed the goal and are left out" if missed else ""
    legend(figure, handles=keys, title=title)
    return figure, tidy
