"""Accuracy against the share of channels that gates keep, by the gates' estimator."""

import pandas as pd

from sa.figure._axis import legend, legend_entry, percent
from sa.figure._base import Canvas, Sheet, kind, need, palette, panels
from sa.table.results import numbers

BUDGET = "quantizer.activation.budget"


@kind("label", BUDGET, spread="a point: a run; lines: means over seeds")
def gates(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw test accuracy against the share kept, and the share kept against the budget.

    On the dashed line the share kept equals the budget.
    """
    need(table, "keep", "test/accuracy", BUDGET)
    tidy = table[["label", "seed", "run_id"]].assign(
        budget=numbers(table, BUDGET),
        keep=numbers(table, "keep"),
        accuracy=numbers(table, "test/accuracy"),
    )
    figure, (left, right) = panels(sheet, 2)
    for label, colour in palette(tidy["label"]).items():
        runs = tidy[tidy["label"] == label]
        means = runs.groupby("budget")[["keep", "accuracy"]].mean()
        left.plot(runs["keep"], runs["accuracy"], "o", ms=3, color=colour, alpha=0.6)
        left.plot(means["keep"], means["accuracy"], color=colour, label=label)
        right.plot(runs["budget"], runs["keep"], "o", ms=3, color=colour, alpha=0.6)
        right.plot(means.index, means["keep"], color=colour)
    ends = [0, float(tidy["budget"].max())]
    right.plot(ends, ends, "--", color="0.4", lw=0.8)
    left.set(xlabel="share of channels kept", ylabel="test accuracy")
    percent(left.yaxis, left.xaxis, right.xaxis, right.yaxis)
    right.set(xlabel="budget", ylabel="share of channels kept")
    legend_entry(left, "--", "share kept = budget", lw=0.8)
    legend(figure, left)
    return figure, tidy
