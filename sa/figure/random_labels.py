"""What networks fit of spoilt training sets, and what that is worth."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import need, numbers, panels, told

SHOWN = {
    "train/accuracy": "train",
    "train/fitted": "corrupted labels fitted",
    "test/accuracy": "test (clean)",
}


def random_labels(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Training accuracy, wrong labels fitted and test accuracy by corruption; the steps it took.

    Every seed a dot, medians as bars; chance of ten classes dotted. Open: a training that ended
    before it had reached its goal.
    """
    need(table, "train/accuracy", "test/accuracy")
    tidy = pd.DataFrame({"kind": told(table), "seed": table["seed"]})
    kept = {c: n for c, n in SHOWN.items() if c in table}
    for column in kept:
        tidy[column] = numbers(table, column)
    kinds = list(dict.fromkeys(tidy["kind"]))
    tidy["steps"] = numbers(table, "step")
    tidy["reached"] = table.get("stopped", pd.Series("steps", table.index)) != "steps"
    figure, (axis, took) = panels(2)
    width = 0.8 / len(kept)
    tones = sns.color_palette("colorblind")
    for at, ((column, name), colour) in enumerate(zip(kept.items(), tones, strict=False)):
        for x, kind in enumerate(kinds):
            mine = tidy[tidy["kind"] == kind][column].dropna()
            where = x + (at - (len(kept) - 1) / 2) * width
            if len(mine):
                axis.bar(where, mine.median(), width, color=colour, alpha=0.6,
                         label=name if x == 0 or name not in axis.get_legend_handles_labels()[1]
                         else None)  # fmt: skip
                axis.plot([where] * len(mine), mine, ".", ms=3, color="0.2")
    axis.axhline(0.1, color="0.4", lw=0.8, ls=":", label="chance")
    for x, kind in enumerate(kinds):
        mine = tidy[tidy["kind"] == kind].dropna(subset="steps")
        fill = ["0.2" if there else "none" for there in mine["reached"]]
        took.scatter([x] * len(mine), mine["steps"], c=fill, edgecolors="0.2", s=16)
    short = [k.removeprefix("dataset.corruption=") for k in kinds]
    for one in (axis, took):
        one.set_xticks(range(len(kinds)), short, rotation=20, ha="right", fontsize=6.5)
    took.set(ylabel="steps to the goal (open: not reached)")
    if tidy["steps"].min() > 0:
        took.set_yscale("log")
    axis.set(ylabel="share of rows", ylim=(0, 1.05))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, tidy
