"""Whether figures of one step order estimators as a training does."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sa import ranking
from sa.figure._paper import PANEL, activations, need


def prediction(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Final loss of a short training against each figure of one step, with Kendall's tau."""
    need(table, ranking.TRUTH)
    rows = ranking.means(table)
    tidy = ranking.judged(rows)
    kept = [(c, n) for c, n in ranking.ONE_STEP.items() if c in rows and rows[c].notna().any()]
    figure = Figure(figsize=(0.62 * PANEL * max(2, len(kept)), 0.9 * PANEL), dpi=200)
    axes = figure.subplots(1, max(1, len(kept)), squeeze=False, sharey=True)[0]
    colours = dict(zip(activations(rows), sns.color_palette("colorblind"), strict=False))
    for axis, (column, name) in zip(axes, kept, strict=False):
        for activation, colour in colours.items():
            mine = rows[rows["activation"] == activation]
            known = mine[mine["rank"].notna()]  # who lost a run has no place in the order
            tau = f"  τ = {ranking.kendall(known[column], -known[ranking.TRUTH]):.2f}"
            axis.plot(mine[column], mine[ranking.TRUTH], "o", ms=3, color=colour,
                      alpha=0.8, label=f"{activation}{tau}")  # fmt: skip
        axis.set_xlabel(name)
        axis.legend(frameon=False, fontsize=6, handletextpad=0.1)
    axes[0].set_ylabel("loss after training / loss before")
    return figure, tidy
