"""What networks of one input have learnt, beside the truth."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure._paper import PANEL, need, numbers, told


def function_curve(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A column a kind of training: truth, every seed thin, the median thick; residuals below."""
    need(table, "function_curve/x", "function_curve/value")
    table = table[table["function_curve/value"].notna()]
    table = table.assign(told=told(table), dead=numbers(table, "function_curve/collapsed"))
    kinds = list(dict.fromkeys(table["told"]))
    figure = Figure(figsize=(max(4.2, 0.62 * PANEL * len(kinds)), PANEL), dpi=200)
    axes = figure.subplots(2, len(kinds), squeeze=False, sharex="col", sharey="row",
                           height_ratios=[2, 1])  # fmt: skip
    colours = sns.color_palette("colorblind", 10)
    tidy = []
    for (upper, lower), (at, kind) in zip(axes.T, enumerate(kinds), strict=True):
        mine, colour = table[table["told"] == kind], colours[at % 10]
        x, truth = (np.array(mine.iloc[0][f"function_curve/{k}"]) for k in ("x", "truth"))
        values = np.stack([np.array(v) for v in mine["function_curve/value"]])
        for value in values:
            upper.plot(x, value, color=colour, lw=0.4, alpha=0.6)
            lower.plot(x, value - truth, color=colour, lw=0.4, alpha=0.6)
        middle = np.median(values, axis=0)
        upper.plot(x, middle, color=colour, lw=1.8, label="median over seeds")
        upper.plot(x, truth, ":", color="0.1", lw=1.2, label="truth")
        lower.plot(x, middle - truth, color=colour, lw=1.8)
        lower.axhline(0, color="0.4", lw=0.6)
        lower.set_xlabel("x")
        words = "\n".join(kind.split())
        upper.set_title(f"{words}\n{int(mine['dead'].sum())} of {len(mine)} collapsed", fontsize=7)
        for seed, value in zip(mine["seed"], values, strict=True):
            one = {"kind": kind, "seed": seed, "x": x, "truth": truth, "value": value}
            tidy.append(pd.DataFrame(one))
    axes[0][0].set_ylabel("network's output")
    axes[1][0].set_ylabel("residual")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, pd.concat(tidy, ignore_index=True)
