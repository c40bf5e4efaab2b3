"""How well networks of many sizes fit and generalise."""

from itertools import product

import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, percent
from sa.figure._paper import Canvas, Sheet, kind, need, numbers, panels

FITTED = 0.999
"""Training accuracy from which the median network of a size counts as interpolating."""


SIZES = {
    "parameters": "parameters",
    "cost/macs": "multiply-accumulates a row",
    "cost/bits": "bits that store the weights",
}
"""What a size may be told in, where the runs were priced (analysis=cost)."""


@kind("parameters", told="dots: every seed; lines: medians over seeds")
def parameters(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Loss and accuracy of both splits and their absolute gap against size, every seed a dot.

    A column a way to tell it: parameters, and where they were counted MACs and bits. Medians are
    joined; the smallest size whose median training accuracy is 99.9 % is marked.
    """
    need(table, "parameters", "train/loss", "test/loss")
    ends = [e for e in ("loss", "accuracy") if f"test/{e}" in table]
    sizes = [x for x in SIZES if numbers(table, x).notna().any()]
    tidy = table[["seed", *sizes]].astype(float).assign(run_id=table["run_id"])
    for end in ends:
        for split in ("train", "test"):
            tidy[f"{split}/{end}"] = numbers(table, f"{split}/{end}")
        tidy[f"gap/{end}"] = (tidy[f"test/{end}"] - tidy[f"train/{end}"]).abs()
    tidy = tidy.dropna()
    figure, axes = panels(sheet, len(ends) * len(sizes))
    colours = sns.color_palette("colorblind")
    for axis, (end, size) in zip(axes, product(ends, sizes), strict=True):
        middle = tidy.groupby(size).median(numeric_only=True)
        for split, colour, line in zip(("train", "test", "gap"), colours, "--:", strict=False):
            column = f"{split}/{end}"
            axis.plot(tidy[size], tidy[column], ".", ms=3, color=colour, alpha=0.5)
            label = "|test - train|" if split == "gap" else split
            axis.plot(middle.index, middle[column], line, color=colour, label=label)
        hits = middle["train/accuracy"] if "accuracy" in ends else middle["train/loss"] * 0
        fitted = middle.index[hits >= FITTED]
        if len(fitted):
            told = f"interpolates from {fitted[0]:,.0f} {SIZES[size]}"
            told += f" (training error <= {1 - FITTED:.1%})"
            axis.axvline(fitted[0], color="0.5", lw=0.8, ls="-.", label=told)
        axis.set(xscale="log", xlabel=SIZES[size], ylabel=end)
        if end == "loss":
            axis.set_ylabel("loss (mean over rows)")
            positive = (tidy[["train/loss", "test/loss"]] > 0).all().all()
            axis.set_yscale("log" if positive else "linear")
        else:
            percent(axis.yaxis)
    legend(figure, *axes)
    return figure, tidy
