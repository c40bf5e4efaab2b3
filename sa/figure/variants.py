"""Heat maps of every estimator on every activation."""

import pandas as pd
import seaborn as sns

from sa.figure._base import Canvas, Sheet, kind, need
from sa.figure._label import activations
from sa.table import names, ranking
from sa.table.results import reference


@kind("label", "activation", spread="cells: means over seeds")
def variants(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw results of one step and of a short training, by estimator and activation.

    Estimators are in the order of their mean final loss. The tidy table is the ranking.
    """
    need(table, ranking.TRUTH)
    tidy = ranking.means(table)
    shown = {
        "alignment/cosine": (
            names.words("alignment/cosine", reference(table)),
            "viridis",
            0.0,
            1.0,
        ),
        "efficiency/at_evals/heldout": (
            names.words("efficiency/at_evals/heldout").replace(" decrease", "\ndecrease"),
            "viridis",
            0.0,
            None,
        ),
        ranking.TRUTH: ("loss after training\n/ loss before", "viridis_r", None, 1.0),
    }
    shown = {k: v for k, v in shown.items() if k in tidy}
    order = ranking.order(tidy)
    columns = activations(tidy)
    height = 1.2 + 0.17 * len(order)
    figure = sheet(2.6 + 0.62 * max(2, len(columns)) * len(shown), height)
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, (column, (title, colours, low, high)) in zip(axes, shown.items(), strict=True):
        percent = column in names.NAMES and names.NAMES[column].percent
        grid = tidy.pivot(index="label", columns="activation", values=column)
        sns.heatmap(
            grid.reindex(index=order, columns=columns) * (100 if percent else 1),
            ax=axis, cmap=colours, vmin=low, vmax=high, annot=True, fmt=".1f" if percent else ".2f",
            annot_kws={"size": 5.5}, cbar=False, linewidths=0.3,
        )  # fmt: skip
        axis.set(xlabel="", ylabel="", title=title)
        axis.tick_params(length=0, labelsize=6, rotation=0)
    return figure, tidy
