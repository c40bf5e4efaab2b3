"""The cosine to a reference gradient, against dim or another setting."""

import pandas as pd

from sa.figure._axis import beside, horizontal, legend, level, other, reach
from sa.figure._label import reference
from sa.figure._paper import POINTS, Canvas, Sheet, kind, need, numbers, palette, panels
from sa.table import names


@kind("label", "x", told=POINTS)
def alignment(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Cosine to the reference gradient against x, the law's, and what two batches agree to."""
    need(table, "alignment/cosine")
    kept = [k for k in ("dim", "x", "seed", "label", "run_id") if k in table]
    tidy = table[kept].assign(
        cosine=numbers(table, "alignment/cosine"),
        expected=numbers(table, "cosine_expected"),
        ceiling=numbers(table, "alignment/ceiling"),
    )
    who, colours = reference(table), palette(tidy["label"])
    figure, (axis,) = panels(sheet, 1)
    for (label, colour), shift in zip(colours.items(), beside(table, len(colours)), strict=True):
        mine = tidy[tidy["label"] == label].groupby("x")
        got = mine["cosine"].agg(["mean", "min", "max"]).dropna()
        itself = label.split()[0] == who.split()[0] and (got["min"] > 1 - 1e-9).all()
        name = f"{label} (the reference)" if itself else label
        x = got.index * shift
        axis.errorbar(x, got["mean"], reach(got), fmt="o-", ms=3, color=colour, label=name)
        level(axis, mine["expected"].mean(), ":", color=colour)
    level(axis, tidy.groupby("x")["ceiling"].mean(), "-", color="0.6", lw=0.9,
          label=f"{who} of two batches")  # fmt: skip
    horizontal(axis, table)
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.05)
    axis.set_ylabel(names.words("alignment/cosine", who))
    if tidy["expected"].notna().any():
        other(axis, ":", "law on a linear loss")
    legend(figure, axis)
    return figure, tidy
