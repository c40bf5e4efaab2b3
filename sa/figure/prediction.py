"""Whether figures of one step order estimators as a training does."""

import pandas as pd

from sa.figure._axis import percent
from sa.figure._label import activations, reference
from sa.figure._paper import PANEL, Canvas, Sheet, hues, kind, need
from sa.table import names, ranking


def _label(table: pd.DataFrame) -> pd.Series:
    """The estimators: each has a dot, and none a colour of its own."""
    return table["label"]


@kind(_label, "activation", told="a point an estimator, means over seeds; τ over estimators")
def prediction(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Final loss of a short training against each figure of one step, with Kendall's tau."""
    need(table, ranking.TRUTH)
    rows = ranking.means(table)
    judged = ranking.judged(rows)
    kept = [c for c in ranking.ONE_STEP if c in rows and rows[c].notna().any()]
    figure = sheet(0.72 * PANEL * max(2, len(kept)), 0.9 * PANEL)
    axes = figure.subplots(1, max(1, len(kept)), squeeze=False, sharey=True)[0]
    colours = hues(activations(rows))
    for axis, column in zip(axes, kept, strict=False):
        for activation, colour in colours.items():
            mine = rows[rows["activation"] == activation]
            known = mine[mine["rank"].notna()]  # who lost a run has no place in the order
            order = ranking.kendall(known[column], -known[ranking.TRUTH])
            tau = f"  τ = {order:.2f}" if order == order else ""
            axis.plot(mine[column], mine[ranking.TRUTH], "o", ms=3, color=colour,
                      alpha=0.8, label=f"{activation}{tau}")  # fmt: skip
        axis.set_xlabel(names.bare(column, reference(table)).replace(", ", ",\n"))
        if names.NAMES[column].percent:
            percent(axis.xaxis)
        axis.legend(frameon=False, fontsize=6, handletextpad=0.1)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel(names.words(ranking.TRUTH))
    return figure, _points(rows, judged)


def _points(rows: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator, activation and figure of one step, with how well that figure orders."""
    found = []
    for column in ranking.ONE_STEP:
        if column in rows and rows[column].notna().any():
            keys = rows[["activation", "label", "runs"]]
            found.append(
                keys.assign(
                    figure=names.bare(column), value=rows[column], truth=rows[ranking.TRUTH]
                )
            )
    long = pd.concat(found, ignore_index=True) if found else rows[["activation", "label", "runs"]]
    on = [c for c in ("activation", "figure") if c in judged and c in long]
    return long.merge(judged, on=on, how="left") if on else long
