"""What the best step takes away, against dim or another setting."""

import pandas as pd

from sa.figure._axis import beside, horizontal, legend, other, percent, reach, shade_null
from sa.figure._paper import POINTS, Canvas, Sheet, kind, need, numbers, palette, panels
from sa.table import names


@kind("label", "x", told=f"{POINTS}; grey band: random directions, least to most")
def best_decrease(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Best relative decrease against x, held out hollow and dashed.

    Grey: from the least to the most of what the best step along one random direction takes away.
    """
    need(table, "value", "descent/best")
    value = numbers(table, "value")
    relative = {k: numbers(table, f"descent/{k}") / value for k in ("best", "best_heldout")}
    for end in ("least", "most"):
        relative[f"null_{end}"] = numbers(table, f"descent/null_best_{end}") / value
    kept = [k for k in ("dim", "x", "seed", "label", "run_id") if k in table]
    tidy = table[kept].assign(**relative)
    colours = palette(tidy["label"])
    figure, (axis,) = panels(sheet, 1)
    for (label, colour), shift in zip(colours.items(), beside(table, len(colours)), strict=True):
        mine = tidy[tidy["label"] == label].groupby("x")
        for column, line, face in (("best", "-", colour), ("best_heldout", "--", "none")):
            got = mine[column].agg(["mean", "min", "max"]).dropna()
            if got.empty:
                continue
            x = got.index * shift  # side by side
            name = label if line == "-" else None
            axis.plot(x, got["mean"], line, marker="o", ms=3.5, mfc=face, color=colour, label=name)
            if line == "-":
                axis.errorbar(x, got["mean"], reach(got), fmt="none", color=colour, lw=0.8)
    each = tidy.groupby("x")
    null = pd.DataFrame(
        {"least": each["null_least"].min(), "most": each["null_most"].max()}
    ).dropna()
    shade_null(axis, null.index, null["least"], null["most"], "random directions")
    axis.axhline(0, color="0.4", lw=0.6)
    horizontal(axis, table)
    axis.set_ylabel(names.bare("descent/best"))
    percent(axis.yaxis)
    if tidy["best_heldout"].notna().any():
        other(axis, "--", "held out", marker="o", ms=3.5, mfc="none")
    legend(figure, axis)
    return figure, tidy
