"""Loss decrease along smoothed gradients, against the width of the box and of the Gaussian."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import band, legend, legend_entry, percent
from sa.figure._base import MEANS, PANEL, Canvas, Sheet, kind, need
from sa.figure._label import facets
from sa.table import names


@kind("facet", spread=MEANS)
def calibration(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the best decrease against eps and sigma, and the cosines between the two smoothings.

    There is a row of panels for each dim; held-out rows are dashed.
    """
    need(table, "value", "smoothing/cosine", "smoothing/box/best", "smoothing/gaussian/best")
    table = table[table["smoothing/cosine"].notna()]
    kinds = {"box": ("epsilon", "box of half-width eps"), "gaussian": ("sigma", "Gaussian, sigma")}
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
            groups = tidy[(tidy["facet"] == dim) & (tidy["kind"] == one)].groupby("scale")
            band(left, groups["best"], "o-", ms=3, color=colour, label=name)
            heldout = groups["heldout"].mean()
            left.plot(heldout.index, heldout, "--", color=colour)
        left.axhline(0, color="0.4", lw=0.6)
        left.set(xscale="log", title=dim, xlabel="eps or sigma")
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
            cbar_kws={"label": "cosine of the two gradients"},
        )  # fmt: skip
        right.set(xlabel="eps (box)", ylabel="sigma (Gaussian)")
        right.tick_params(axis="y", rotation=0)
        right.tick_params(axis="x", rotation=90 if sizes[1] > 5 else 0)
        right.invert_yaxis()
    if tidy["heldout"].notna().any():
        legend_entry(axes[0][0], "--", "held-out rows")
    legend(figure, axes[0][0])
    return figure, tidy
