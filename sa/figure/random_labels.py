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
    """Training accuracy, the share of wrong labels fitted, test accuracy, by corruption.

    Every seed a dot, medians as bars; chance of ten classes dotted.
    """
    need(table, "train/accuracy", "test/accuracy")
    tidy = pd.DataFrame({"kind": told(table), "seed": table["seed"]})
    kept = {c: n for c, n in SHOWN.items() if c in table}
    for column in kept:
        tidy[column] = numbers(table, column)
    kinds = list(dict.fromkeys(tidy["kind"]))
    figure, (axis,) = panels(1)
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
    axis.set_xticks(range(len(kinds)), kinds, rotation=20, ha="right", fontsize=6.5)
    axis.set(ylabel="share of rows", ylim=(0, 1.05))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, tidy
