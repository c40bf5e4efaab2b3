"""What networks fit of spoilt training sets, and what that is worth."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._axis import legend, percent
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers

SHOWN = {
    "train/accuracy": "train",
    "train/fitted": "corrupted labels fitted",
    "test/accuracy": "test (clean)",
}


@kind("told", told="bars: medians over seeds; dots: every seed")
def random_labels(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Training accuracy, wrong labels fitted and test accuracy by corruption; the steps it took.

    Every seed a dot, medians as bars; chance of ten classes dotted. Open: a training that ended
    before it had reached its goal.
    """
    need(table, "train/accuracy", "test/accuracy")
    tidy = pd.DataFrame({"kind": table["told"], "seed": table["seed"], "run_id": table["run_id"]})
    kept = {c: n for c, n in SHOWN.items() if c in table}
    for column in kept:
        tidy[column] = numbers(table, column)
    kinds = list(dict.fromkeys(tidy["kind"]))
    tidy["steps"] = numbers(table, "step")
    tidy["reached"] = table.get("stopped", pd.Series("steps", table.index)) != "steps"
    figure, (axis, took) = _two(sheet, kinds)
    width = 0.8 / len(kept)
    tones = sns.color_palette("colorblind")
    for at, ((column, name), colour) in enumerate(zip(kept.items(), tones, strict=False)):
        for x, one in enumerate(kinds):
            mine = tidy[tidy["kind"] == one][column].dropna()
            where = x + (at - (len(kept) - 1) / 2) * width
            if len(mine):
                axis.bar(where, mine.median(), width, color=colour, alpha=0.6,
                         label=name if x == 0 or name not in axis.get_legend_handles_labels()[1]
                         else None)  # fmt: skip
                axis.plot([where] * len(mine), mine, ".", ms=3, color="0.2")
    axis.axhline(0.1, color="0.4", lw=0.8, ls=":", label="chance")
    for x, one in enumerate(kinds):
        mine = tidy[tidy["kind"] == one].dropna(subset="steps")
        fill = ["0.2" if there else "none" for there in mine["reached"]]
        took.scatter([x] * len(mine), mine["steps"], c=fill, edgecolors="0.2", s=16)
    short = [k.removeprefix("dataset.corruption=") for k in kinds]
    for one in (axis, took):
        one.set_xticks(range(len(kinds)), short, rotation=30, ha="right", fontsize=6.5,
                       rotation_mode="anchor")  # fmt: skip
    took.set(ylabel="steps to the goal (open: not reached)")
    if tidy["steps"].min() > 0:
        took.set_yscale("log")
    axis.set(ylabel="share of rows", ylim=(0, 1.05))
    percent(axis.yaxis)
    legend(figure, axis)
    return figure, tidy


def _two(sheet: Sheet, kinds: Sequence[str]) -> tuple[Canvas, tuple[Axes, Axes]]:
    """Two panels, as wide as their bars and as high as the names below them need."""
    figure = sheet(
        min(max(2 * PANEL, 0.9 * len(kinds)), 6 * PANEL), 2.6 + 0.03 * max(map(len, kinds))
    )
    left, right = figure.subplots(1, 2)
    return figure, (left, right)
