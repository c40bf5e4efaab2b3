"""Loss and accuracy on the straight line between two trainings."""

import numpy as np
import pandas as pd

from sa.figure._axis import legend, legend_entry, percent
from sa.figure._base import Canvas, Sheet, hues, kind, need, panels
from sa.figure._label import paired


@kind(paired, spread="thin: every seed; thick: median over seeds")
def interpolation(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw loss and accuracy along the line, test dashed; dotted lines mark the trainings."""
    need(table, "interpolation/alpha", "interpolation/train/loss")
    table = table[table["interpolation/alpha"].notna()]
    table = table.assign(configuration=paired(table))
    kinds = list(dict.fromkeys(table["configuration"]))
    ends = [e for e in ("loss", "accuracy") if f"interpolation/train/{e}" in table]
    figure, axes = panels(sheet, len(ends))
    colours = hues(kinds)
    tidy = []
    for axis, end in zip(axes, ends, strict=True):
        for one, runs in table.groupby("configuration", sort=False):
            alpha = np.array(runs.iloc[0]["interpolation/alpha"])
            for split, line in (("train", "-"), ("test", "--")):
                column = f"interpolation/{split}/{end}"
                values = np.stack([np.array(v) for v in runs[column]])
                axis.plot(alpha, values.T, line, color=colours[one], lw=0.4, alpha=0.5)
                label = f"{one} ({len(runs)} pairs)" if line == "-" else None
                axis.plot(alpha, np.median(values, axis=0), line, color=colours[one], label=label)
                for seed, run, value in zip(runs["seed"], runs["run_id"], values, strict=True):
                    about = {"kind": one, "seed": seed, "run_id": run, "number": f"{split}/{end}"}
                    tidy.append(pd.DataFrame(about | {"alpha": alpha, "value": value}))
        for x in (0, 1):
            axis.axvline(x, color="0.6", lw=0.7, ls=":", zorder=0)
        axis.set(xlabel=r"$\alpha$ (0: first training, 1: second)", ylabel=end)
    out = pd.concat(tidy, ignore_index=True)
    losses = out[out["number"].str.endswith("loss")]["value"]
    if losses.min() > 0:
        axes[0].set_yscale("log")
    axes[0].set_ylabel("loss (mean over rows)")
    if "accuracy" in ends:
        percent(axes[-1].yaxis)
    legend_entry(axes[0], "--", "test")
    legend(figure, axes[0])
    return figure, out
