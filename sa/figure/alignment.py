"""Cosine to a reference gradient, against dim or another setting."""

import pandas as pd

from sa.figure._axis import dodge, error_bars, legend, legend_entry, level, x_axis
from sa.figure._base import POINTS, Canvas, Sheet, kind, need, palette, panels
from sa.table import names
from sa.table.results import numbers, reference


@kind("label", "x", spread=POINTS)
def alignment(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the cosine against x, with the law on a linear loss and the cosine of two batches."""
    need(table, "alignment/cosine")
    columns = [k for k in ("dim", "x", "seed", "label", "run_id") if k in table]
    tidy = table[columns].assign(
        cosine=numbers(table, "alignment/cosine"),
        expected=numbers(table, "cosine_expected"),
        ceiling=numbers(table, "alignment/ceiling"),
    )
    compared, colours = reference(table), palette(tidy["label"])
    figure, (axis,) = panels(sheet, 1)
    for (label, colour), shift in zip(colours.items(), dodge(table, len(colours)), strict=True):
        groups = tidy[tidy["label"] == label].groupby("x")
        found = groups["cosine"].agg(["mean", "min", "max"]).dropna()
        itself = label.split()[0] == compared.split()[0] and (found["min"] > 1 - 1e-9).all()
        name = f"{label} (the reference)" if itself else label
        x, bars = found.index * shift, error_bars(found)
        axis.errorbar(x, found["mean"], bars, fmt="o-", ms=3, color=colour, label=name)
        level(axis, groups["expected"].mean(), ":", color=colour)
    level(axis, tidy.groupby("x")["ceiling"].mean(), "-", color="0.6", lw=0.9,
          label=f"{compared}, batch against held-out rows")  # fmt: skip
    x_axis(axis, table)
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.05)
    axis.set_ylabel(names.words("alignment/cosine", compared))
    if tidy["expected"].notna().any():
        legend_entry(axis, ":", "expected on a linear loss")
    legend(figure, axis)
    return figure, tidy
