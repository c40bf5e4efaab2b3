"""The cosine of coordinate differences to a cheaper gradient, against eps, layer by layer."""

import pandas as pd

from sa.figure._axis import legend, level, other, reach
from sa.figure._label import reference
from sa.figure._paper import POINTS, Canvas, Sheet, hues, kind, need, numbers, panels
from sa.table import names


@kind(
    "moving", "estimator.epsilon", "quantizer.weight._target_",
    told=POINTS,
)  # fmt: skip
def layer_cosine(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Cosine to the reference gradient against eps: a panel a kind of weights, a line a layer.

    Mean over seeds with their range; dotted: the share of coordinates whose difference is 0.
    """
    need(table, "moving", "estimator.epsilon", "alignment/cosine")
    table = table[table["estimator.epsilon"].notna()]
    weights = table.get("quantizer.weight._target_", pd.Series("", index=table.index))
    tidy = table[["moving", "seed", "run_id"]].assign(
        weights=weights.str.split(".").str[-1].replace("Identity", "full-precision"),
        epsilon=numbers(table, "estimator.epsilon"),
        cosine=numbers(table, "alignment/cosine"),
        dead=numbers(table, "alignment/dead"),
    )
    kinds, layers = list(tidy["weights"].unique()), list(tidy["moving"].unique())
    colours = hues(layers)
    figure, axes = panels(sheet, len(kinds), sharey=True)
    for axis, one in zip(axes, kinds, strict=True):
        for layer, colour in colours.items():
            here = tidy[(tidy["weights"] == one) & (tidy["moving"] == layer)].groupby("epsilon")
            got = here["cosine"].agg(["mean", "min", "max"])
            name = "layer " + str(layer).strip("[]")
            axis.errorbar(
                got.index, got["mean"], reach(got), fmt="o-", ms=3, color=colour, label=name
            )
            level(axis, here["dead"].mean(), ":", color=colour)
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(
            xscale="log", title=f"{one} weights" if one else "", xlabel="eps", ylim=(-0.1, 1.05)
        )
    axes[0].set_ylabel(names.words("alignment/cosine", reference(table)))
    if tidy["dead"].notna().any():
        other(axes[0], ":", "share of differences that are 0")
    legend(figure, axes[0])
    return figure, tidy
