"""What networks fit of random labels, by their parameters and by the bits that store them."""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sa.figure._axis import legend, percent
from sa.figure._paper import Canvas, Sheet, kind, need, numbers, panels

GOAL = 0.99
"""The share of labels from which they count as memorised."""


@kind(
    "quantizer.weight.bits", "cost/parameters", "rows",
    told="dots: every seed; lines: medians over seeds",
)  # fmt: skip
def memorised(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """The share fitted against parameters and bits a training row, a line the bits of weights.

    Every seed a dot, medians joined. The legend has where the median first crosses the goal, on the
    straight line between two sizes of the logarithm; > the largest where it does not.
    """
    need(table, "quantizer.weight.bits", "cost/parameters", "cost/bits", "rows", "train/accuracy")
    rows = numbers(table, "rows")
    tidy = pd.DataFrame(
        {
            "bits": numbers(table, "quantizer.weight.bits"),
            "seed": table["seed"],
            "run_id": table["run_id"],
            "parameters/row": numbers(table, "cost/parameters") / rows,
            "bits/row": numbers(table, "cost/bits") / rows,
            "fitted": numbers(table, "train/accuracy"),
        }
    ).dropna()
    figure, axes = panels(sheet, 2, sharey=True)
    widths = sorted(tidy["bits"].unique())
    tones = sns.color_palette("viridis", len(widths))
    for bits, colour in zip(widths, tones, strict=True):
        mine = tidy[tidy["bits"] == bits]
        told = []
        for axis, size in zip(axes, ("parameters/row", "bits/row"), strict=True):
            axis.plot(mine[size], mine["fitted"], ".", ms=4, color=colour, alpha=0.7)
            middle = mine.groupby(size)["fitted"].median()
            axis.plot(middle.index, middle, color=colour, label="_")
            at = needed(middle)
            far = f"> {middle.index.max():.3g}" if math.isnan(at) else f"{at:.3g}"
            told.append(f"{far} {size.split('/')[0]}")
        label = f"weights of {bits:g} bit{'s' if bits > 1 else ''}: {', '.join(told)}"
        axes[0].plot([], [], color=colour, label=label)
    for axis, size in zip(axes, ("parameters", "bits, norms and biases at 32"), strict=True):
        axis.axhline(GOAL, color="0.5", lw=0.8, ls=":")
        axis.set(xscale="log", xlabel=f"{size}, a training row")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[1].axvline(math.log2(10), color="0.5", lw=0.8, ls="-.", label="log2(10): a label's own")
    axes[0].set_ylabel("random labels fitted")
    percent(axes[0].yaxis)
    legend(figure, *axes, title=f"a training row, where the median crosses {GOAL:.0%}")
    return figure, tidy


def needed(fitted: pd.Series, goal: float = GOAL) -> float:
    """The size (index, rising) from which ``fitted`` is at the goal; nan where it never is.

    Between the last size below and the next, on the straight line of the logarithm.

    >>> round(needed(pd.Series([0.49, 0.89, 1.09], index=[1.0, 10.0, 100.0])), 3)
    31.623
    """
    below = np.flatnonzero(fitted.to_numpy() < goal)
    at = int(below[-1]) + 1 if len(below) else 0
    if at == len(fitted):
        return math.nan
    if at == 0:
        return float(fitted.index[0])
    (x0, x1), (y0, y1) = np.log(fitted.index[at - 1 : at + 1]), fitted.iloc[at - 1 : at + 1]
    return float(np.exp(x0 + (goal - y0) / (y1 - y0) * (x1 - x0)))
