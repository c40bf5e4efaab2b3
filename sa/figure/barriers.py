"""Loss barrier between two trainings, by their estimators and starts."""

import numpy as np
import pandas as pd

from sa.figure._base import PANEL, Canvas, Sheet, hues, kind, need
from sa.figure._label import paired
from sa.table.results import numbers

SHOWN = {
    "interpolation/barrier": "barrier of the training loss",
    "interpolation/barrier/test": "barrier of the test loss",
    "interpolation/distance": "distance of the two points",
}


@kind(paired, spread="bars: medians over seeds; dots: every seed")
def barriers(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw a row of bars for each pair of trainings, and a panel for each result."""
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
            values = tidy.loc[tidy["pair"] == pair, column]
            axis.barh(place, values.median(), 0.7, color=tones[start], alpha=0.5)
            axis.plot(values, np.full(len(values), place), ".", ms=3.5, color="0.2")
        axis.locator_params(axis="x", nbins=4)
        axis.set(xlabel=name, ylim=(len(pairs) - 0.5, -0.5))
    axes[0].set_yticks(range(len(pairs)), pairs)
    return figure, tidy
