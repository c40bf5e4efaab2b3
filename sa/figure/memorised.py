"""Share of random labels that networks fit, by parameters and by the bits that store them."""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sa.figure._axis import legend, percent
from sa.figure._base import Canvas, Sheet, kind, need, panels
from sa.table.results import numbers

GOAL = 0.99
"""The share of fitted labels from which a training set counts as memorised."""


@kind(
    "quantizer.weight.bits", "cost/parameters", "rows",
    spread="dots: every seed; lines: medians over seeds",
)  # fmt: skip
def memorised(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the share fitted against parameters and bits per training row, by bits of the weights.

    The legend says where the median reaches `GOAL`, interpolated between two sizes in the
    logarithm of the size; or ``> largest size`` if the median does not reach it.
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
        runs = tidy[tidy["bits"] == bits]
        reached = []
        for axis, size in zip(axes, ("parameters/row", "bits/row"), strict=True):
            axis.plot(runs[size], runs["fitted"], ".", ms=4, color=colour, alpha=0.7)
            median = runs.groupby(size)["fitted"].median()
            axis.plot(median.index, median, color=colour, label="_")
            at = needed(median)
            far = f"> {median.index.max():.3g}" if math.isnan(at) else f"{at:.3g}"
            reached.append(f"{far} {size.split('/')[0]}")
        label = f"weights of {bits:g} bit{'s' if bits > 1 else ''}: {', '.join(reached)}"
        axes[0].plot([], [], color=colour, label=label)
    labels = "parameters per training row", "bits per training row (norms and biases: 32 bits)"
    for axis, label in zip(axes, labels, strict=True):
        axis.axhline(GOAL, color="0.5", lw=0.8, ls=":")
        axis.set(xscale="log", xlabel=label)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[1].axvline(
        math.log2(10), color="0.5", lw=0.8, ls="-.", label="log2(10): the bits of one label"
    )
    axes[0].set_ylabel("random labels fitted")
    percent(axes[0].yaxis)
    legend(figure, *axes, title=f"per training row, where the median reaches {GOAL:.0%}")
    return figure, tidy


def needed(fitted: pd.Series, goal: float = GOAL) -> float:
    """Return the size (the rising index) from which ``fitted`` is at the goal; NaN if it never is.

    Between the last size below the goal and the next one, ``fitted`` is taken as linear in the
    logarithm of the size.

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
