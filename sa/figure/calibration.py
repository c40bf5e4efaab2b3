"""Which eps and which sigma to smooth with."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import PANEL, legend, need


def calibration(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best decrease against eps and sigma, held out dashed, and the cosines between the two kinds.

    A row a dim, means over seeds with their range as a band.
    """
    need(table, "dim", "value", "smoothing/cosine", "smoothing/box/best", "smoothing/gaussian/best")
    table = table[table["smoothing/cosine"].notna()]
    kinds = {"box": ("epsilon", "box, half-width eps"), "gaussian": ("sigma", "gaussian, sigma")}
    tidy = pd.concat(
        pd.DataFrame(
            {"kind": kind, "scale": row[f"smoothing/{kind}/{scale}"], "dim": row["dim"]}
            | {"seed": row.get("seed")}
            | {"best": np.asarray(row[f"smoothing/{kind}/best"]) / row["value"]}
            | {"heldout": np.asarray(row.get(f"smoothing/{kind}/heldout", np.nan)) / row["value"]}
        )
        for _, row in table.iterrows()
        for kind, (scale, _) in kinds.items()
    )
    dims = sorted(table["dim"].unique().tolist())
    figure = Figure(figsize=(2.1 * PANEL, 0.8 * PANEL * len(dims)), dpi=200)
    axes = figure.subplots(len(dims), 2, squeeze=False, width_ratios=[1.5, 1])
    for (left, right), dim in zip(axes, dims, strict=True):
        for colour, (kind, (_, name)) in zip(
            sns.color_palette("colorblind", 2), kinds.items(), strict=True
        ):
            mine = tidy[(tidy["dim"] == dim) & (tidy["kind"] == kind)].groupby("scale")
            got = mine["best"].agg(["mean", "min", "max"])
            left.plot(got.index, got["mean"], "o-", ms=3, color=colour, label=name)
            left.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
            left.plot(got.index, mine["heldout"].mean(), "--", color=colour)
        left.axhline(0, color="0.4", lw=0.6)
        left.set(xscale="log", title=f"dim {dim}", xlabel="eps, sigma")
        left.set_ylabel("best loss decrease / loss")
        left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        here = table[table["dim"] == dim]
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
        right.invert_yaxis()
    legend(figure, axes[0][0], "held out")
    return figure, tidy
