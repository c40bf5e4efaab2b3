"""How high the loss rises between two trainings, by who trained them and from how many starts."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure._paper import PANEL, need, numbers, paired

SHOWN = {
    "interpolation/barrier": "barrier of the training loss",
    "interpolation/barrier/test": "barrier of the test loss",
    "interpolation/distance": "distance of the ends",
}


def barriers(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A row a pair of trainings: every seed a dot, medians as bars, one panel a number."""
    need(table, *SHOWN)
    tidy = pd.DataFrame({"pair": paired(table), "seed": table["seed"]})
    for column in SHOWN:
        tidy[column] = numbers(table, column)
    tidy = tidy.dropna()
    pairs = list(dict.fromkeys(tidy["pair"]))
    starts = [(p.split(", ") + [""])[1] for p in pairs]
    tones = dict(zip(dict.fromkeys(starts), sns.color_palette("colorblind"), strict=False))
    figure = Figure(figsize=(2.4 * PANEL, 0.24 * len(pairs) + 0.9), dpi=200)
    axes = figure.subplots(1, len(SHOWN), sharey=True)
    for axis, (column, name) in zip(axes, SHOWN.items(), strict=True):
        for place, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
            mine = tidy.loc[tidy["pair"] == pair, column]
            axis.barh(place, mine.median(), 0.7, color=tones[start], alpha=0.5)
            axis.plot(mine, np.full(len(mine), place), ".", ms=3.5, color="0.2")
        axis.set(xlabel=name, ylim=(len(pairs) - 0.5, -0.5))
    axes[0].set_yticks(range(len(pairs)), pairs)
    return figure, tidy
