"""Loss decrease of the best step, against dim or another setting."""

import pandas as pd

from sa.figure._axis import dodge, error_bars, legend, legend_entry, percent, shade_null, x_axis
from sa.figure._base import POINTS, Canvas, Sheet, kind, need, palette, panels
from sa.table import names
from sa.table.results import numbers


@kind("label", "x", spread=f"{POINTS}; grey band: random directions, least to most")
def best_decrease(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the best relative decrease against x, on held-out rows hollow and dashed.

    The grey band is the range of the best decrease along one random direction.
    """
    need(table, "value", "descent/best")
    value = numbers(table, "value")
    relative = {k: numbers(table, f"descent/{k}") / value for k in ("best", "best_heldout")}
    for end in ("least", "most"):
        relative[f"null_{end}"] = numbers(table, f"descent/null_best_{end}") / value
    columns = [k for k in ("dim", "x", "seed", "label", "run_id") if k in table]
    tidy = table[columns].assign(**relative)
    colours = palette(tidy["label"])
    figure, (axis,) = panels(sheet, 1)
    for (label, colour), shift in zip(colours.items(), dodge(table, len(colours)), strict=True):
        groups = tidy[tidy["label"] == label].groupby("x")
        for column, line, face in (("best", "-", colour), ("best_heldout", "--", "none")):
            found = groups[column].agg(["mean", "min", "max"]).dropna()
            if found.empty:
                continue
            x, mean = found.index * shift, found["mean"]  # points lie side by side
            name = label if line == "-" else None
            axis.plot(x, mean, line, marker="o", ms=3.5, mfc=face, color=colour, label=name)
            if line == "-":
                axis.errorbar(x, mean, error_bars(found), fmt="none", color=colour, lw=0.8)
    each = tidy.groupby("x")
    null = pd.DataFrame(
        {"least": each["null_least"].min(), "most": each["null_most"].max()}
    ).dropna()
    shade_null(axis, null.index, null["least"], null["most"], "random directions")
    axis.axhline(0, color="0.4", lw=0.6)
    x_axis(axis, table)
    axis.set_ylabel(names.bare("descent/best"))
    percent(axis.yaxis)
    if tidy["best_heldout"].notna().any():
        legend_entry(axis, "--", "held-out rows", marker="o", ms=3.5, mfc="none")
    legend(figure, axis, title=table.attrs.get("hue", ""))
    return figure, tidy
