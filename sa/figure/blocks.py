"""Shares of each block of a network: of the parameters, the gradient and its sharp directions."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend
from sa.figure._base import PANEL, Canvas, Sheet, kind, need
from sa.table.results import numbers

SHOWN = {
    "size": "share of the parameters",
    "part": "share of the squared gradient",
    "share": "of that, share in the block's own top eigenspace",
}


@kind("model._target_", spread="bars: means over seeds")
def blocks(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw three shares of each block, in the network's order, with a panel for each model.

    Titles say how much of each top eigenvector of the whole network the blocks' top eigenspaces
    contain.
    """
    need(table, "blocks/order", "model._target_")
    runs = table[table["blocks/order"].notna()]
    tidy = pd.concat([_blocks(run) for _, run in runs.iterrows()], ignore_index=True)
    models = list(dict.fromkeys(tidy["model"]))
    counts = [tidy.loc[tidy["model"] == m, "block"].nunique() for m in models]
    figure = sheet(max(4.2, PANEL * len(models) + 0.4), 1.4 + 0.2 * max(counts))
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    tones = sns.color_palette("colorblind")
    for axis, model in zip(axes, models, strict=True):
        parts = tidy[tidy["model"] == model]
        means = parts.groupby("block", sort=False)[list(SHOWN)].mean()
        places = np.arange(len(means))
        for at, (column, label) in enumerate(SHOWN.items()):
            axis.barh(places + 0.27 * (at - 1), means[column], 0.25, color=tones[at], label=label)
        axis.set_yticks(places, list(means.index))
        axis.set(xlim=(0, 1), ylim=(len(means) - 0.5, -0.5), xlabel="share")
        held = numbers(parts, "held").dropna()
        least = f", contain ≥ {held.min():.2f} of each top eigenvector" if len(held) else ""
        axis.set_title(f"{model}: {len(means)} blocks{least}", fontsize=7)
    legend(figure, axes[0])
    return figure, tidy


def _blocks(run: pd.Series) -> pd.DataFrame:
    """Return a row for each block of one run, with the shapes of its tensors."""
    model = str(run["model._target_"]).rsplit(".", 1)[-1]
    columns, found = ("shapes", "parameters", "part", "share"), []
    for name in str(run["blocks/order"]).split(","):
        found.append({k: run.get(f"blocks/{name}/{k}") for k in columns} | {"block": name})
    out = pd.DataFrame(found).assign(
        model=model, seed=run.get("seed"), run_id=run["run_id"], held=run.get("blocks/held_least")
    )
    return out.assign(size=out["parameters"] / out["parameters"].sum())
