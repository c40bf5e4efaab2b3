"""Whether estimators that point along CDG end where flips of weights cost less."""

import pandas as pd
from matplotlib.lines import Line2D

from sa.figure._axis import legend
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers, order, palette, steps

COSINES = {
    "path": "cosine to CDG, mean over the training",
    "end": "cosine to CDG where it ends",
}
FLIPS = {"mean": "mean change of the loss by a flip", "most": "largest change by a flip"}


@kind("label", told="a dot a training; τ: mean over seeds [least, most]")
def aligned_flips(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Mean and largest cost of a flip against the cosine: a dot a training, a colour an estimator.

    Kendall's tau over the estimators of each seed: mean, least and most over seeds. Trainings that
    missed the goal of ``until`` are left out, and counted.
    """
    need(table, "alignment/cosine", "sharpness/flip_mean", "sharpness/flip_max", "stopped")
    reached = table["stopped"].notna() & table["stopped"].ne("steps")
    if not reached.any():
        raise ValueError("no training reached the goal of until={...}; give them more steps")
    kept, rows = table[reached], steps(table)
    tidy = kept[["label", "seed", "run_id"]].assign(
        path=[numbers(rows(run), "alignment/cosine").mean() for _, run in kept.iterrows()],
        end=numbers(kept, "alignment/cosine"),
        mean=numbers(kept, "sharpness/flip_mean"),
        most=numbers(kept, "sharpness/flip_max"),
        step=numbers(kept, "step"),
    )
    figure = sheet(2.1 * PANEL, 1.75 * PANEL)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    colours = palette(tidy["label"])
    for line, (flip, what) in zip(axes, FLIPS.items(), strict=True):
        for axis, (cosine, where) in zip(line, COSINES.items(), strict=True):
            for label, colour in colours.items():
                mine = tidy[tidy["label"] == label]
                axis.plot(mine[cosine], mine[flip], "o", ms=3.5, alpha=0.8, color=colour)
            axis.set_title(order(tidy, cosine, flip))
            axis.set(
                xlabel=where if flip == "most" else "", ylabel=what if cosine == "path" else ""
            )
    dots = [Line2D([], [], ls="", marker="o", ms=3.5, color=c, label=k) for k, c in colours.items()]
    missed = int((~reached).sum())
    title = f"{missed} of {len(table)} trainings missed the goal and are left out" if missed else ""
    legend(figure, handles=dots, title=title)
    return figure, tidy
