"""Does a sharp minimum generalise worse? Over a grid of trainings, never between two."""

import pandas as pd
from matplotlib.figure import Figure

from sa import ranking
from sa.figure._paper import need, numbers, panels

MEASURES = {
    "sharpness/lambda_max": r"$\lambda_{max}$",
    "sharpness/keskar": "Keskar's sharpness (%)",
    "sharpness/sam": "SAM sharpness",
    "sharpness/asam": "adaptive SAM sharpness",
}


def sharpness_gap(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """The gap of the losses, test less train, against each sharpness, with Kendall's tau."""
    there = [c for c in MEASURES if c in table and numbers(table, c).notna().any()]
    need(table, "train/loss", "test/loss", *there[:1] or ["sharpness/lambda_max"])
    tidy = table[["label", "seed"]].assign(
        gap=numbers(table, "test/loss") - numbers(table, "train/loss"),
        **{c: numbers(table, c) for c in there},
    )
    figure, axes = panels(len(there), sharey=True)
    for axis, column in zip(axes, there, strict=True):
        axis.plot(tidy[column], tidy["gap"], "o", ms=3, alpha=0.7, color="C0")
        tau = ranking.kendall(tidy[column], tidy["gap"])
        axis.set(xlabel=MEASURES[column], title=f"τ = {tau:.2f} of {len(tidy)} trainings")
        if (tidy[column].dropna() > 0).all():
            axis.set_xscale("log")
    axes[0].set_ylabel("test loss - train loss")
    return figure, tidy
