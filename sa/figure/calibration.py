"""Which eps and which sigma to smooth with."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, other, percent
from sa.figure._label import facets
from sa.figure._paper import MEANS, PANEL, Canvas, Sheet, kind, need
from sa.table import names


@kind("facet", told=MEANS)
def calibration(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Best decrease against eps and sigma, held out dashed, and the cosines between the two kinds.

    A row a dim, means over seeds with their range as a band.
    """
    need(table, "value", "smoothing/cosine", "smoothing/box/best", "smoothing/gaussian/best")
    table = table[table["smoothing/cosine"].notna()]
    kinds = {"box": ("epsilon", "box, half-width eps"), "gaussian": ("sigma", "gaussian, sigma")}
    tidy = pd.concat(
        pd.DataFrame(
            {"kind": one, "scale": row[f"smoothing/{one}/{scale}"], "facet": row["facet"]}
            | {"seed": row.get("seed"), "run_id": row["run_id"], "dim": row.get("dim")}
            | {"best": np.asarray(row[f"smoothing/{one}/best"]) / row["value"]}
            | {"heldout": np.asarray(row.get(f"smoothing/{one}/heldout", np.nan)) / row["value"]}
        )
        for _, row in table.iterrows()
        for one, (scale, _) in kinds.items()
    )
    dims = facets(table)
    figure = sheet(2.1 * PANEL, 0.8 * PANEL * len(dims))
    axes = figure.subplots(len(dims), 2, squeeze=False, width_ratios=[1.5, 1])
    for (left, right), dim in zip(axes, dims, strict=True):
        for colour, (one, (_, name)) in zip(
            sns.color_palette("colorblind", 2), kinds.items(), strict=True
        ):
            mine = tidy[(tidy["facet"] == dim) & (tidy["kind"] == one)].groupby("scale")
            got = mine["best"].agg(["mean", "min", "max"])
            left.plot(got.index, got["mean"], "o-", ms=3, color=colour, label=name)
            left.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
            left.plot(got.index, mine["heldout"].mean(), "--", color=colour)
        left.axhline(0, color="0.4", lw=0.6)
        left.set(xscale="log", title=dim, xlabel="eps, sigma")
        left.set_ylabel(names.bare("descent/best"))
        percent(left.yaxis)
        here = table[table["facet"] == dim]
        row = here.iloc[0]
        sizes = len(row["smoothing/gaussian/sigma"]), len(row["smoothing/box/epsilon"])
        cosines = np.mean([np.reshape(c, sizes) for c in here["smoothing/cosine"]], 0)
        sns.heatmap(
            cosines, ax=right, vmin=0, vmax=1, cmap="viridis", annot=max(sizes) <= 5,
            xticklabels=[f"{e:g}" for e in row["smoothing/box/epsilon"]],
            yticklabels=[f"{s:g}" for s in row["smoothing/gaussian/sigma"]],
            cbar_kws={"label": "cosine"},
        )  # fmt: skip
        right.set(xlabel="eps", ylabel="sigma")
        right.tick_params(axis="y", rotation=0)
        right.tick_params(axis="x", rotation=90 if sizes[1] > 5 else 0)
        right.invert_yaxis()
    if tidy["heldout"].notna().any():
        other(axes[0][0], "--", "held out")
    legend(figure, axes[0][0])
    return figure, tidy
