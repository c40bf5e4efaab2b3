"""Accuracy against the share of channels that gates keep, by the estimator of their gradient."""

import pandas as pd

from sa.figure._axis import legend, other, percent
from sa.figure._paper import Canvas, Sheet, kind, need, numbers, palette, panels

BUDGET = "quantizer.activation.budget"


@kind("label", BUDGET, told="a point a run; lines: means over seeds")
def gates(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Test accuracy against the share kept, and the share kept against the budget (dashed: met).

    A point a run, lines through the means over seeds.
    """
    need(table, "keep", "test/accuracy", BUDGET)
    tidy = table[["label", "seed", "run_id"]].assign(
        budget=numbers(table, BUDGET),
        keep=numbers(table, "keep"),
        accuracy=numbers(table, "test/accuracy"),
    )
    figure, (left, right) = panels(sheet, 2)
    for label, colour in palette(tidy["label"]).items():
        mine = tidy[tidy["label"] == label]
        means = mine.groupby("budget")[["keep", "accuracy"]].mean()
        left.plot(mine["keep"], mine["accuracy"], "o", ms=3, color=colour, alpha=0.6)
        left.plot(means["keep"], means["accuracy"], color=colour, label=label)
        right.plot(mine["budget"], mine["keep"], "o", ms=3, color=colour, alpha=0.6)
        right.plot(means.index, means["keep"], color=colour)
    ends = [0, float(tidy["budget"].max())]
    right.plot(ends, ends, "--", color="0.4", lw=0.8)
    left.set(xlabel="share of channels kept", ylabel="test accuracy")
    percent(left.yaxis, left.xaxis, right.xaxis, right.yaxis)
    right.set(xlabel="budget", ylabel="share of channels kept")
    other(left, "--", "budget met", lw=0.8)
    legend(figure, left)
    return figure, tidy
