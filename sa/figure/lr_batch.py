"""Accuracy by learning rate and batch size, of parameters kept in few bits."""

import pandas as pd
import seaborn as sns

from sa.figure._paper import Canvas, Sheet, kind, need, numbers

_SETTINGS = {
    "stored.bits": "bits",
    "stored.rounding": "rounding",
    "optimizer.lr": "lr",
    "batch_size": "batch",
}


@kind(*_SETTINGS, told="cells: means over seeds, in %")
def lr_batch(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Heat map of the test accuracy, a panel a width of storage and rounding; means over seeds.

    Empty where every run diverged.
    """
    need(table, *_SETTINGS, "test/accuracy")
    tidy = table[[*_SETTINGS, "seed", "run_id"]].rename(columns=_SETTINGS)
    tidy["accuracy"] = numbers(table, "test/accuracy")
    bits = sorted(tidy["bits"].unique())
    roundings = sorted(tidy["rounding"].unique())
    lrs, batches = (sorted(tidy[k].unique()) for k in ("lr", "batch"))
    size = 1.0 + 0.42 * len(lrs) * len(bits), 0.8 + (0.5 + 0.32 * len(batches)) * len(roundings)
    figure = sheet(max(4.2, size[0]), max(2.2, size[1]))
    axes = figure.subplots(len(roundings), len(bits), squeeze=False, sharex=True, sharey=True)
    for row, rounding in zip(axes, roundings, strict=True):
        for axis, b in zip(row, bits, strict=True):
            mine = tidy[(tidy["bits"] == b) & (tidy["rounding"] == rounding)]
            if mine.empty:
                axis.set_visible(False)
                continue
            grid = mine.pivot_table(index="batch", columns="lr", values="accuracy") * 100
            sns.heatmap(
                grid.reindex(index=batches, columns=lrs), ax=axis, vmin=10, vmax=100,
                cmap="viridis", annot=True, fmt=".0f", annot_kws={"size": 6.5}, cbar=False,
                linewidths=0.3,
            )  # fmt: skip
            axis.set_xticklabels([f"{v:g}" for v in lrs], rotation=0)
            axis.set(xlabel="", ylabel="", title=f"{b:g} bits, {_WORDS[rounding]}")
            axis.tick_params(length=0, rotation=0)
        row[0].set_ylabel("rows a step")
    for axis in axes[-1]:
        axis.set_xlabel("learning rate")
    return figure, tidy


_WORDS = {"nearest": "to nearest", "stochastic": "at random"}
