"""How long gradients are along trainings, beside the loss and the sharpness."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa.figure._paper import PANEL, history, need, numbers

ENDS = ("full", "batch", "lambda_max", "edge", "successive")
VARIED = ("model.hidden", "model.activation", "optimizer.lr", "batch_size")


def gradient_norm(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Loss, gradient norm (full; batch dashed), lambda_max (2/lr dotted) and successive cosine.

    Over the analysed steps of trainings; medians over seeds with their range as a band.
    """
    need(table, "gradient_norm/full", "gradient_norm/batch")
    table = table[numbers(table, "gradient_norm/full").notna()]
    varied = [k for k in VARIED if k in table and table[k].nunique() > 1]
    several = table["label"].nunique() > 1 or not varied
    kept = [*(["label"] if several else []), *varied]
    words = table[kept].astype(str)
    for key in varied:
        words[key] = key.split(".")[-1] + " " + words[key]
    named = words.agg(" ".join, axis=1)
    table = table.assign(label=named)
    known = [k for k in ENDS if f"gradient_norm/{k}" in table]
    columns = ["loss", *(f"gradient_norm/{k}" for k in known)]
    tidy = history(table, ["label", "seed"], *columns)
    tidy = tidy.rename(columns=lambda c: c.removeprefix("gradient_norm/")).reindex(
        columns=["label", "seed", "step", "loss", *ENDS]
    )
    shown = [
        ("loss", "loss of the batch", "", ""),
        ("full", "gradient norm", "batch", "--"),
        ("lambda_max", "largest Hessian eigenvalue", "edge", ":"),
        ("successive", "cosine of successive gradients", "", ""),
    ]
    shown = [s for s in shown if tidy[s[0]].notna().any()]
    figure = Figure(figsize=(2 * PANEL, 2.6 * ((len(shown) + 1) // 2)), dpi=200)
    axes = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).flatten()
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    colours = sns.color_palette("colorblind", 10) * 9
    for axis, (key, name, other, line) in zip(axes, shown, strict=False):
        for colour, (label, mine) in zip(colours, tidy.groupby("label", sort=False), strict=False):
            steps = mine.groupby("step")
            got = steps[key].agg(["median", "min", "max"])
            seeds = mine["seed"].nunique()
            axis.plot(got.index, got["median"], color=colour, label=f"{label} ({seeds} seeds)")
            axis.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
            if other and mine[other].notna().any():
                seen = steps[other].median()
                axis.plot(seen.index, seen, line, color=colour, lw=0.9)
        axis.set(xlabel="step", ylabel=name)
        if key != "successive" and tidy[key].min() > 0:
            axis.set_yscale("log")
    for style, name in (("--", "of the batch"), (":", "2/lr")):
        axes[0].plot([], [], style, color="0.3", label=name)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, tidy
