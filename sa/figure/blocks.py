"""How networks split into layers: of the parameters, of the gradient, of the sharp directions."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers

SHOWN = {
    "size": "share of the parameters",
    "part": "share of the gradient (squared)",
    "share": "of that, in the block's own top space",
}


@kind("model._target_", told="bars: means over seeds")
def blocks(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """A panel a model: three shares a block, in the network's order; means over runs.

    Titles say how much of each of the whole's top directions the blocks' top spaces hold.
    """
    need(table, "blocks/order", "model._target_")
    known = table[table["blocks/order"].notna()]
    tidy = pd.concat([_blocks(row) for _, row in known.iterrows()], ignore_index=True)
    models = list(dict.fromkeys(tidy["model"]))
    counts = [tidy.loc[tidy["model"] == m, "block"].nunique() for m in models]
    figure = sheet(max(4.2, PANEL * len(models) + 0.4), 1.4 + 0.2 * max(counts))
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    tones = sns.color_palette("colorblind")
    for axis, model in zip(axes, models, strict=True):
        mine = tidy[tidy["model"] == model]
        means = mine.groupby("block", sort=False)[list(SHOWN)].mean()
        places = np.arange(len(means))
        for at, (column, told) in enumerate(SHOWN.items()):
            axis.barh(places + 0.27 * (at - 1), means[column], 0.25, color=tones[at], label=told)
        axis.set_yticks(places, list(means.index))
        axis.set(xlim=(0, 1), ylim=(len(means) - 0.5, -0.5), xlabel="share")
        held = numbers(mine, "held").dropna()
        words = f"; hold {held.min():.2f} or more of each top direction" if len(held) else ""
        axis.set_title(f"{model}: {len(means)} blocks{words}", fontsize=7)
    legend(figure, axes[0])
    return figure, tidy


def _blocks(run: pd.Series) -> pd.DataFrame:
    """A row a block of one run, with its tensors' shapes in order."""
    model = str(run["model._target_"]).rsplit(".", 1)[-1]
    found = []
    for name in str(run["blocks/order"]).split(","):
        got = {k: run.get(f"blocks/{name}/{k}") for k in ("shapes", "parameters", "part", "share")}
        found.append(got | {"block": name})
    out = pd.DataFrame(found).assign(
        model=model, seed=run.get("seed"), run_id=run["run_id"], held=run.get("blocks/held_least")
    )
    return out.assign(size=out["parameters"] / out["parameters"].sum())
