"""Training and test loss and accuracy of networks, against their size."""

from itertools import product

import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, percent
from sa.figure._base import Canvas, Sheet, kind, need, panels
from sa.table.results import numbers

FITTED = 0.999
"""Training accuracy from which the median network of a size counts as interpolating."""


SIZES = {
    "parameters": "parameters",
    "cost/macs": "multiply-accumulates per row",
    "cost/bits": "bits that store the weights",
}
"""The measures of size; all but the first need analysis=cost."""


@kind("parameters", spread="dots: every seed; lines: medians over seeds")
def parameters(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw loss and accuracy of both splits and their gap, against each measure of size.

    A vertical line marks the smallest size whose median training accuracy is at least `FITTED`.
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
        medians = tidy.groupby(size).median(numeric_only=True)
        for split, colour, line in zip(("train", "test", "gap"), colours, "--:", strict=False):
            column = f"{split}/{end}"
            axis.plot(tidy[size], tidy[column], ".", ms=3, color=colour, alpha=0.5)
            label = "|test - train|" if split == "gap" else split
            axis.plot(medians.index, medians[column], line, color=colour, label=label)
        hits = medians["train/accuracy"] if "accuracy" in ends else medians["train/loss"] * 0
        fitted = medians.index[hits >= FITTED]
        if len(fitted):
            label = f"interpolates from {fitted[0]:,.0f} {SIZES[size]}"
            label += f" (training error ≤ {1 - FITTED:.1%})"
            axis.axvline(fitted[0], color="0.5", lw=0.8, ls="-.", label=label)
        axis.set(xscale="log", xlabel=SIZES[size], ylabel=end)
        if end == "loss":
            axis.set_ylabel("loss (mean over rows)")
            positive = (tidy[["train/loss", "test/loss"]] > 0).all().all()
            axis.set_yscale("log" if positive else "linear")
        else:
            percent(axis.yaxis)
    legend(figure, *axes)
    return figure, tidy
