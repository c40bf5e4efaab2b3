"""Does a sharp minimum generalise worse? Over a grid of trainings, never between two."""

from itertools import cycle

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure._paper import need, numbers, order, panels

MEASURES = {
    "sharpness/lambda_max": r"$\lambda_{max}$",
    "sharpness/keskar": "Keskar's sharpness (%)",
    "sharpness/sam": "SAM sharpness",
    "sharpness/asam": "adaptive SAM sharpness",
}


def sharpness_gap(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """The gap of the losses, test less train, against each sharpness, a colour a seed.

    Kendall's tau is within a seed, as the gap differs between seeds: the mean over seeds, and the
    least and the most.
    """
    there = [c for c in MEASURES if c in table and numbers(table, c).notna().any()]
    need(table, "train/loss", "test/loss", *there[:1] or ["sharpness/lambda_max"])
    tidy = table[["label", "seed"]].assign(
        gap=numbers(table, "test/loss") - numbers(table, "train/loss"),
        **{c: numbers(table, c) for c in there},
    )
    figure, axes = panels(len(there), sharey=True)
    for axis, column in zip(axes, there, strict=True):
        colours = cycle(sns.color_palette("colorblind"))
        for colour, (_, mine) in zip(colours, tidy.groupby("seed"), strict=False):
            axis.plot(mine[column], mine["gap"], "o", ms=3, alpha=0.8, color=colour)
        axis.set(xlabel=MEASURES[column], title=order(tidy, column, "gap"))
        low, high = tidy[column].min(), tidy[column].max()
        if low > 0 and high > 10 * low:
            axis.set_xscale("log")
    axes[0].set_ylabel(f"test loss - train loss\n{len(tidy)} trainings, a colour a seed")
    return figure, tidy
