"""How well networks of many sizes fit and generalise."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import need, numbers, panels

FITTED = 0.999
"""Training accuracy from which the median network of a size counts as interpolating."""


def parameters(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Loss and accuracy of both splits and their absolute gap against parameters, every seed a dot.

    Medians are joined; the smallest size whose median training accuracy is 99.9 % is marked.
    """
    need(table, "parameters", "train/loss", "test/loss")
    ends = [e for e in ("loss", "accuracy") if f"test/{e}" in table]
    tidy = table[["parameters", "seed"]].astype(float)
    for end in ends:
        for split in ("train", "test"):
            tidy[f"{split}/{end}"] = numbers(table, f"{split}/{end}")
        tidy[f"gap/{end}"] = (tidy[f"test/{end}"] - tidy[f"train/{end}"]).abs()
    tidy = tidy.dropna()
    middle = tidy.groupby("parameters").median()
    hits = middle["train/accuracy"] if "accuracy" in ends else middle["train/loss"] * 0
    fitted = middle.index[hits >= FITTED]
    figure, axes = panels(len(ends))
    colours = sns.color_palette("colorblind")
    for axis, end in zip(axes, ends, strict=True):
        for split, colour, line in zip(("train", "test", "gap"), colours, "--:", strict=False):
            column = f"{split}/{end}"
            axis.plot(tidy["parameters"], tidy[column], ".", ms=3, color=colour, alpha=0.5)
            label = "|test - train|" if split == "gap" else split
            axis.plot(middle.index, middle[column], line, color=colour, label=label)
        if len(fitted):
            axis.axvline(fitted[0], color="0.5", lw=0.8, ls="-.",
                         label=f"interpolates from {fitted[0]:,.0f}")  # fmt: skip
        axis.set(xscale="log", xlabel="parameters", ylabel=end)
    axes[0].set_yscale("log" if (tidy[["train/loss", "test/loss"]] > 0).all().all() else "linear")
    axes[0].set_ylabel("loss (mean over rows)")
    if "accuracy" in ends:
        axes[-1].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, tidy
