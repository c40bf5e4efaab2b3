"""The cosine to a reference gradient, against dim."""

import pandas as pd
from matplotlib.figure import Figure

from sa.figure._paper import legend, need, numbers, palette, panels, widths


def alignment(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Cosine to the reference gradient against dim, the law's, and what two batches agree to."""
    need(table, "dim", "alignment/cosine")
    tidy = table[["dim", "seed", "label"]].assign(
        cosine=numbers(table, "alignment/cosine"),
        expected=numbers(table, "cosine_expected"),
        ceiling=numbers(table, "alignment/ceiling"),
    )
    figure, (axis,) = panels(1)
    for label, colour in palette(tidy["label"]).items():
        mine = tidy[tidy["label"] == label].groupby("dim")
        got = mine["cosine"].agg(["mean", "min", "max"])
        reach = [got["mean"] - got["min"], got["max"] - got["mean"]]
        axis.errorbar(got.index, got["mean"], reach, fmt="o-", ms=3, color=colour, label=label)
        expected = mine["expected"].mean()
        if expected.notna().any():
            axis.plot(expected.index, expected, ":", color=colour)
    ceiling = tidy.groupby("dim")["ceiling"].mean()
    axis.plot(ceiling.index, ceiling, color="0.6", lw=0.9, label="CDG of two batches")
    widths(axis, tidy["dim"])
    axis.set(ylabel="cosine to the reference gradient", ylim=(min(-0.05, axis.get_ylim()[0]), 1.05))
    legend(figure, axis, "law on a linear loss", ":")
    return figure, tidy
