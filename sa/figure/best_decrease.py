"""What the best step takes away, against dim."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import legend, need, numbers, palette, panels, shade_null, widths


def best_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best relative decrease against dim: mean and range over seeds, held out dashed, the null."""
    need(table, "dim", "value", "descent/best")
    tidy = table[["dim", "seed", "label"]].assign(
        best=numbers(table, "descent/best") / numbers(table, "value"),
        best_heldout=numbers(table, "descent/best_heldout") / numbers(table, "value"),
        null_best=numbers(table, "descent/null_best") / numbers(table, "value"),
    )
    figure, (axis,) = panels(1)
    for at, (label, colour) in enumerate(palette(tidy["label"]).items()):
        mine = tidy[tidy["label"] == label].groupby("dim")
        dims = np.array(sorted(float(str(d)) for d in mine.groups)) * 2 ** (
            0.04 * (at - 1.5)
        )  # side by side
        for column, line in (("best", "-"), ("best_heldout", "--")):
            got = mine[column].agg(["mean", "min", "max"])
            if got["mean"].isna().all():
                continue
            axis.plot(dims, got["mean"], line, color=colour, label=label if line == "-" else None)
            if line == "-":
                reach = [got["mean"] - got["min"], got["max"] - got["mean"]]
                axis.errorbar(dims, got["mean"], reach, fmt="o", ms=3, color=colour, lw=0.8)
    null = tidy.groupby("dim")["null_best"].mean()
    shade_null(axis, null.index, null)
    axis.axhline(0, color="0.4", lw=0.6)
    widths(axis, tidy["dim"])
    axis.set_ylabel("best loss decrease / loss")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    legend(figure, axis, "held out")
    return figure, tidy
