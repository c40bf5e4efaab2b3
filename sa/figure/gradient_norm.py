"""How long gradients are along trainings, beside the loss and the sharpness."""

import pandas as pd

from sa.figure._axis import legend, other
from sa.figure._paper import MEDIANS, PANEL, Canvas, Sheet, history, hues, kind, need, numbers

ENDS = ("full", "batch", "lambda_max", "edge", "successive")


@kind("told", told=MEDIANS)
def gradient_norm(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Loss, gradient norm (full; batch dashed), lambda_max (2/lr dotted) and successive cosine.

    Over the analysed steps of trainings; medians over seeds with their range as a band.
    """
    need(table, "gradient_norm/full", "gradient_norm/batch")
    table = table[numbers(table, "gradient_norm/full").notna()]
    known = [k for k in ENDS if f"gradient_norm/{k}" in table]
    columns = ["loss", *(f"gradient_norm/{k}" for k in known)]
    tidy = history(table, ["told", "seed", "run_id"], *columns)
    tidy = tidy.rename(columns=lambda c: c.removeprefix("gradient_norm/")).reindex(
        columns=["told", "seed", "run_id", "step", "loss", *ENDS]
    )
    shown = [
        ("loss", "loss of the batch", "", ""),
        ("full", "gradient norm", "batch", "--"),
        ("lambda_max", "largest Hessian eigenvalue", "edge", ":"),
        ("successive", "cosine of successive gradients", "", ""),
    ]
    shown = [s for s in shown if tidy[s[0]].notna().any()]
    figure = sheet(2 * PANEL, 2.6 * ((len(shown) + 1) // 2))
    axes = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).flatten()
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    colours = hues(list(dict.fromkeys(tidy["told"])))
    for axis, (key, name, second, line) in zip(axes, shown, strict=False):
        for label, mine in tidy.groupby("told", sort=False):
            colour = colours[label]
            steps = mine.groupby("step")
            got = steps[key].agg(["median", "min", "max"])
            axis.plot(got.index, got["median"], color=colour, label=str(label))
            axis.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
            if second and mine[second].notna().any():
                seen = steps[second].median()
                axis.plot(seen.index, seen, line, color=colour, lw=0.9)
        axis.set(xlabel="step", ylabel=name)
        if key != "successive" and tidy[key].min() > 0:
            axis.set_yscale("log")
    for column, style, name in (("batch", "--", "of the batch"), ("edge", ":", "2/lr")):
        if tidy[column].notna().any():
            other(axes[0], style, name)
    legend(figure, axes[0])
    return figure, tidy
