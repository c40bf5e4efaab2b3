"""Top Hessian eigenvectors: their share in each block, their spread, and how far they move."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sa.figure._axis import band
from sa.figure._base import PANEL, Canvas, Sheet, kind, need, rows_of
from sa.table.results import numbers

RANDOM = 1 / 3
"""The participation ratio of a random direction in many dimensions."""


@kind(
    "model._target_",
    "optimizer.lr",
    spread="cells: means over seeds at the last step; lines: medians; bands: least to most",
)
def eigenvectors(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw where u_1 ... u_k live, by block; their participation ratio; and the displacement.

    There is a row of panels for each model and rate. The cells are shares of |u_i|^2, and beside
    the name of a block is its share of the parameters. The displacement is that since the analysis
    before; the dashed line is the ratio of a random direction.
    """
    need(table, "eigenvectors/order", "model._target_", "optimizer.lr")
    runs = table[table["eigenvectors/order"].notna()].assign(lr=numbers(table, "optimizer.lr"))
    runs["model"] = runs["model._target_"].str.rsplit(".").str[-1]
    rows = rows_of(table)
    tidy = pd.concat([_shares(run) for _, run in runs.iterrows()], ignore_index=True)
    moves = pd.concat([_moves(run, rows(run)) for _, run in runs.iterrows()], ignore_index=True)
    columns = runs[["model", "lr"]].drop_duplicates().values.tolist()
    counts = [
        tidy.loc[(tidy["model"] == m) & (tidy["lr"] == lr), "block"].nunique() for m, lr in columns
    ]
    heights = [max(1.9, 0.9 + 0.16 * count) for count in counts]
    figure = sheet(2.3 * PANEL, sum(heights))
    axes = figure.subplots(
        len(columns), 3, squeeze=False, width_ratios=[1.5, 1, 1], height_ratios=heights
    )
    tone = sns.color_palette("colorblind")[0]
    for (cells, spread, path), (model, lr) in zip(axes, columns, strict=True):
        mine = tidy[(tidy["model"] == model) & (tidy["lr"] == lr)]
        _heat(cells, mine)
        cells.set_title(f"{model}, η = {lr:g}: share of each block, in %")
        ratios = mine.drop_duplicates(["run_id", "direction"])
        band(spread, ratios.groupby("direction")["participation"], middle="median", color=tone)
        spread.axhline(RANDOM, color="0.3", ls="--", lw=0.8)
        low = 10.0 ** np.floor(np.log10(ratios["participation"].min()))
        spread.set(yscale="log", xlabel="eigenvector i", title="participation ratio")
        spread.set_ylim(low, 1)
        spread.xaxis.set_major_locator(MaxNLocator(integer=True))
        steps = moves[(moves["model"] == model) & (moves["lr"] == lr)]
        if steps.empty:  # probes have no displacement
            path.remove()
            continue
        band(path, steps.groupby("step")["displacement"], "o-", "median", color=tone, ms=2.5)
        path.set(ylim=(0, 1), xlabel="step", title="displacement")
    return figure, pd.concat([tidy, moves], ignore_index=True)


def _heat(axis: Axes, cells: pd.DataFrame) -> None:
    """Draw the mean share by block and eigenvector."""
    grid = cells.pivot_table(index="block", columns="direction", values="share", sort=False)
    sizes = cells.groupby("block")["size"].first()
    axis.imshow(grid.to_numpy(), aspect="auto", vmin=0, vmax=1, cmap="viridis")
    names = [f"{block} ({100 * sizes[block]:.2g} %)" for block in grid.index]
    axis.set_yticks(range(len(names)), names)
    every = max(1, -(-grid.shape[1] // 10))
    axis.set_xticks(range(0, grid.shape[1], every), [str(int(i)) for i in grid.columns[::every]])
    axis.set(xlabel="eigenvector i")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for (y, x), share in np.ndenumerate(grid.to_numpy()) if grid.shape[1] <= 20 else ():
        tone = "white" if share < 0.6 else "black"
        axis.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=5.5, color=tone)


def _shares(run: pd.Series) -> pd.DataFrame:
    """Return a row for each block and eigenvector of a run, at its last step."""
    found = []
    ratios = run["eigenvectors/participation"]
    for block in str(run["eigenvectors/order"]).split(","):
        for i, share in enumerate(run[f"eigenvectors/{block}/shares"]):
            found.append(
                {"block": block, "direction": i + 1, "share": share, "participation": ratios[i]}
                | {"size": run[f"eigenvectors/{block}/size"]}
            )
    return pd.DataFrame(found).assign(**_whose(run))


def _moves(run: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of a run that have a displacement."""
    wanted = ["step", "eigenvectors/since", "eigenvectors/displacement"]
    found = rows.reindex(columns=wanted).dropna()
    return found.rename(columns=lambda c: c.rpartition("/")[2]).assign(**_whose(run))


def _whose(run: pd.Series) -> dict[str, Any]:
    """Return what the rows of a run have in common."""
    return {k: run[k] for k in ("model", "lr", "seed", "run_id")}
