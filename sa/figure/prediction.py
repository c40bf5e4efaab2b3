"""Results of one step against the loss after a training, estimator by estimator."""

import pandas as pd

from sa.figure._axis import percent
from sa.figure._base import PANEL, Canvas, Sheet, hues, kind, need
from sa.figure._label import activations
from sa.table import names, ranking
from sa.table.results import reference


def _label(table: pd.DataFrame) -> pd.Series:
    """Return the label of each run. The figure shows it as a dot, without a colour of its own."""
    return table["label"]


@kind(_label, "activation", spread="a point: an estimator, mean over seeds; τ: over estimators")
def prediction(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the final loss of a short training against each result of one step; τ is Kendall's."""
    need(table, ranking.TRUTH)
    rows = ranking.means(table)
    judged = ranking.judged(rows)
    columns = [c for c in ranking.ONE_STEP if c in rows and rows[c].notna().any()]
    figure = sheet(0.72 * PANEL * max(2, len(columns)), 0.9 * PANEL)
    axes = figure.subplots(1, max(1, len(columns)), squeeze=False, sharey=True)[0]
    colours = hues(activations(rows))
    for axis, column in zip(axes, columns, strict=False):
        for activation, colour in colours.items():
            dots = rows[rows["activation"] == activation]
            ranked = dots[dots["rank"].notna()]  # an estimator that lost a run has no rank
            tau = ranking.kendall(ranked[column], -ranked[ranking.TRUTH])
            label = f"{activation}  τ = {tau:.2f}" if tau == tau else activation
            axis.plot(dots[column], dots[ranking.TRUTH], "o", ms=3, color=colour,
                      alpha=0.8, label=label)  # fmt: skip
        axis.set_xlabel(names.bare(column, reference(table)).replace(", ", ",\n"))
        if names.NAMES[column].percent:
            percent(axis.xaxis)
        axis.legend(frameon=False, fontsize=6, handletextpad=0.1)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel(names.words(ranking.TRUTH))
    return figure, _points(rows, judged)


def _points(rows: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each estimator, activation and result of one step, with its scores."""
    keys, truth = rows[["activation", "label", "runs"]], rows[ranking.TRUTH]
    found = [
        keys.assign(figure=names.bare(column), value=rows[column], truth=truth)
        for column in ranking.ONE_STEP
        if column in rows and rows[column].notna().any()
    ]
    long = pd.concat(found, ignore_index=True) if found else keys
    on = [c for c in ("activation", "figure") if c in judged and c in long]
    return long.merge(judged, on=on, how="left") if on else long
