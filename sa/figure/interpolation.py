"""Loss and accuracy on the line between two trainings."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import columns, need, paired, panels


def interpolation(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Every pair thin, the median of a kind thick; tests dashed; the ends at 0 and 1 marked."""
    need(table, "interpolation/alpha", "interpolation/train/loss")
    table = table[table["interpolation/alpha"].notna()]
    table = table.assign(told=paired(table))
    kinds = list(dict.fromkeys(table["told"]))
    ends = [e for e in ("loss", "accuracy") if f"interpolation/train/{e}" in table]
    figure, axes = panels(len(ends))
    colours = dict(zip(kinds, sns.color_palette("colorblind", 10) * 9, strict=False))
    tidy = []
    for axis, end in zip(axes, ends, strict=True):
        for kind, mine in table.groupby("told", sort=False):
            alpha = np.array(mine.iloc[0]["interpolation/alpha"])
            for split, line in (("train", "-"), ("test", "--")):
                column = f"interpolation/{split}/{end}"
                values = np.stack([np.array(v) for v in mine[column]])
                axis.plot(alpha, values.T, line, color=colours[kind], lw=0.4, alpha=0.5)
                label = f"{kind} ({len(mine)} pairs)" if line == "-" else None
                axis.plot(alpha, np.median(values, axis=0), line, color=colours[kind], label=label)
                for seed, value in zip(mine["seed"], values, strict=True):
                    one = {"kind": kind, "seed": seed, "number": f"{split}/{end}"}
                    tidy.append(pd.DataFrame({**one, "alpha": alpha, "value": value}))
        for x in (0, 1):
            axis.axvline(x, color="0.6", lw=0.7, ls=":", zorder=0)
        axis.set(xlabel=r"$\alpha$ (0: first training, 1: second)", ylabel=end)
    out = pd.concat(tidy, ignore_index=True)
    losses = out[out["number"].str.endswith("loss")]["value"]
    if losses.min() > 0:
        axes[0].set_yscale("log")
    axes[0].set_ylabel("loss (mean over rows)")
    if "accuracy" in ends:
        axes[-1].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    axes[0].plot([], [], "--", color="0.3", label="test")
    handles, labels = axes[0].get_legend_handles_labels()
    side = columns(figure, labels, 3)
    figure.legend(handles, labels, loc="outside lower center", ncols=side, frameon=False)
    return figure, out
