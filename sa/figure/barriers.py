"""How high the loss rises between two trainings, by who trained them and from how many starts."""

import numpy as np
import pandas as pd

from sa.figure._label import paired
from sa.figure._paper import PANEL, Canvas, Sheet, hues, kind, need, numbers

SHOWN = {
    "interpolation/barrier": "barrier of the training loss",
    "interpolation/barrier/test": "barrier of the test loss",
    "interpolation/distance": "distance of the ends",
}


@kind(paired, told="bars: medians over seeds; dots: every seed")
def barriers(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """A row a pair of trainings: every seed a dot, medians as bars, one panel a number."""
    need(table, *SHOWN)
    tidy = pd.DataFrame({"pair": paired(table), "seed": table["seed"], "run_id": table["run_id"]})
    for column in SHOWN:
        tidy[column] = numbers(table, column)
    tidy = tidy.dropna()
    pairs = list(dict.fromkeys(tidy["pair"]))
    starts = [(p.split(", ") + [""])[1] for p in pairs]
    tones = hues(list(dict.fromkeys(starts)))
    figure = sheet(2.4 * PANEL, 0.24 * len(pairs) + 0.9)
    axes = figure.subplots(1, len(SHOWN), sharey=True)
    for axis, (column, name) in zip(axes, SHOWN.items(), strict=True):
        for place, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
            mine = tidy.loc[tidy["pair"] == pair, column]
            axis.barh(place, mine.median(), 0.7, color=tones[start], alpha=0.5)
            axis.plot(mine, np.full(len(mine), place), ".", ms=3.5, color="0.2")
        axis.locator_params(axis="x", nbins=4)
        axis.set(xlabel=name, ylim=(len(pairs) - 0.5, -0.5))
    axes[0].set_yticks(range(len(pairs)), pairs)
    return figure, tidy
