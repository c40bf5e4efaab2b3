"""Accuracy by the bits of weights and of activations."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import percent
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers

_WEIGHT, _LEVELS = "quantizer.weight.bits", "quantizer.activation.levels"


@kind(_WEIGHT, _LEVELS, told="lines and cells: means over seeds; bands: least to most over seeds")
def accuracy_bits(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Test accuracy against weight bits, a line an activation width, and both as a heat map.

    Means over seeds, with their range as a band.
    """
    need(table, _WEIGHT, _LEVELS, "test/accuracy")
    tidy = pd.DataFrame(
        {
            "weights": numbers(table, _WEIGHT),
            "activations": np.log2(numbers(table, _LEVELS)),
            "accuracy": numbers(table, "test/accuracy"),
            "seed": table["seed"],
            "run_id": table["run_id"],
        }
    ).dropna(subset="accuracy")
    weights, widths = (sorted(tidy[k].unique()) for k in ("weights", "activations"))
    figure = sheet(2.1 * PANEL, 0.85 * PANEL)
    lines, grid = figure.subplots(1, 2, width_ratios=[1.3, 1])
    at = {b: i for i, b in enumerate(weights)}
    for bits, tone in zip(widths, sns.color_palette("viridis", len(widths)), strict=True):
        mine = tidy[tidy["activations"] == bits].groupby("weights")["accuracy"]
        got = mine.agg(["mean", "min", "max"])
        x = [at[b] for b in got.index]
        lines.plot(x, got["mean"], "o-", ms=3, color=tone, label=f"{bits:.3g}")
        lines.fill_between(x, got["min"], got["max"], color=tone, alpha=0.15, lw=0)
    lines.set_xticks(range(len(weights)), [f"{b:g}" for b in weights])
    lines.set(xlabel="bits of weights", ylabel="test accuracy")
    percent(lines.yaxis)
    lines.legend(title="bits of\nactivations", frameon=False, title_fontsize=7)
    both = tidy.pivot_table(index="activations", columns="weights", values="accuracy") * 100
    both.index, both.columns = ([f"{v:.3g}" for v in k] for k in (both.index, both.columns))
    sns.heatmap(both, ax=grid, cmap="viridis", annot=True, fmt=".1f", annot_kws={"size": 6.5},
                cbar=False, linewidths=0.3)  # fmt: skip
    grid.set(xlabel="bits of weights", ylabel="bits of activations", title="test accuracy, %")
    grid.tick_params(rotation=0)
    grid.invert_yaxis()
    return figure, tidy
