"""Does a sharp minimum generalise worse? Over a grid of trainings, never between two."""

from itertools import cycle

import pandas as pd

from sa.figure._axis import legend
from sa.figure._paper import Canvas, Sheet, hues, kind, need, numbers, order, panels

MEASURES = {
    "sharpness/lambda_max": r"$\lambda_{max}$",
    "sharpness/keskar": "Keskar's sharpness (%)",
    "sharpness/sam": "SAM sharpness",
    "sharpness/asam": "adaptive SAM sharpness",
}


@kind(
    "told",
    told="a dot a training; τ over the grid within a seed: mean [least, most]",
)
def sharpness_gap(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """The gap of the losses, test less train, against each sharpness.

    A colour a configuration, a mark a seed.

    Kendall's tau is within a seed, as the gap differs between seeds: the mean over seeds, and the
    least and the most.
    """
    there = [c for c in MEASURES if c in table and numbers(table, c).notna().any()]
    need(table, "train/loss", "test/loss", *there[:1] or ["sharpness/lambda_max"])
    tidy = table[["told", "seed", "run_id"]].assign(
        gap=numbers(table, "test/loss") - numbers(table, "train/loss"),
        **{c: numbers(table, c) for c in there},
    )
    colours = hues(list(dict.fromkeys(tidy["told"])))
    marks = dict(zip(sorted(set(tidy["seed"])), cycle("os^vD<>pP*X"), strict=False))
    named: set[str] = set()
    figure, axes = panels(sheet, len(there), sharey=True)
    for axis, column in zip(axes, there, strict=True):
        for (told, seed), mine in tidy.groupby(["told", "seed"], sort=False):
            label = told if told not in named else None
            named.add(str(told))
            axis.plot(mine[column], mine["gap"], marks[seed], ms=3, alpha=0.8,
                      color=colours[told], label=label)  # fmt: skip
        axis.set(xlabel=MEASURES[column], title=order(tidy, column, "gap"))
        low, high = tidy[column].min(), tidy[column].max()
        if low > 0 and high > 10 * low:
            axis.set_xscale("log")
    axes[0].set_ylabel(f"test loss - train loss\n{len(tidy)} trainings, a mark a seed")
    legend(figure, axes[0])
    return figure, tidy
