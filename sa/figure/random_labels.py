"""Accuracy of networks trained on corrupted training sets, and the steps that it took."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._axis import legend, percent
from sa.figure._base import MISSED, PANEL, Canvas, Sheet, kind, need
from sa.table.results import numbers

SHOWN = {
    "train/accuracy": "train",
    "train/fitted": "corrupted labels fitted",
    "test/accuracy": "test (clean)",
}


@kind("configuration", spread="bars: medians over seeds; dots: every seed")
def random_labels(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw training accuracy, corrupted labels fitted, test accuracy and steps, by corruption.

    The dotted line is chance, for ten classes. An open dot is a training that missed its goal.
    """
    need(table, "train/accuracy", "test/accuracy")
    tidy = table[["configuration", "seed", "run_id"]].rename(columns={"configuration": "kind"})
    shown = {c: n for c, n in SHOWN.items() if c in table}
    for column in shown:
        tidy[column] = numbers(table, column)
    kinds = list(dict.fromkeys(tidy["kind"]))
    tidy["steps"] = numbers(table, "step")
    stopped = table.get("stopped", pd.Series("steps", table.index))
    tidy["reached"] = ~stopped.astype(str).str.match(MISSED)
    figure, (axis, took) = _two(sheet, kinds)
    width = 0.8 / len(shown)
    tones = sns.color_palette("colorblind")
    for at, ((column, name), colour) in enumerate(zip(shown.items(), tones, strict=False)):
        for x, one in enumerate(kinds):
            values = tidy[tidy["kind"] == one][column].dropna()
            where = x + (at - (len(shown) - 1) / 2) * width
            if len(values):
                axis.bar(where, values.median(), width, color=colour, alpha=0.6, label=name)
                axis.plot([where] * len(values), values, ".", ms=3, color="0.2")
    axis.axhline(0.1, color="0.4", lw=0.8, ls=":", label="chance (10 classes)")
    for x, one in enumerate(kinds):
        runs = tidy[tidy["kind"] == one].dropna(subset="steps")
        fill = ["0.2" if reached else "none" for reached in runs["reached"]]
        took.scatter([x] * len(runs), runs["steps"], c=fill, edgecolors="0.2", s=16)
    short = [k.removeprefix("dataset.corruption=") for k in kinds]
    for one in (axis, took):
        one.set_xticks(range(len(kinds)), short, rotation=30, ha="right", fontsize=6.5,
                       rotation_mode="anchor")  # fmt: skip
    took.set(ylabel="steps to the goal (open: goal missed)")
    if tidy["steps"].min() > 0:
        took.set_yscale("log")
    axis.set(ylabel="share of rows", ylim=(0, 1.05))
    percent(axis.yaxis)
    legend(figure, axis)
    return figure, tidy


def _two(sheet: Sheet, kinds: Sequence[str]) -> tuple[Canvas, tuple[Axes, Axes]]:
    """Return two panels, as wide as their bars and as high as the names below them need."""
    figure = sheet(
        min(max(2 * PANEL, 0.9 * len(kinds)), 6 * PANEL), 2.6 + 0.03 * max(map(len, kinds))
    )
    left, right = figure.subplots(1, 2)
    return figure, (left, right)
