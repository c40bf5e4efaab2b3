"""Accuracy by the way fixed-point ranges are found."""

import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, other, percent
from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers

_SETTINGS = {
    "quantizer.weight.range": "range",
    "quantizer.weight.train": "mode",
    "quantizer.weight.bits": "bits",
    "quantizer.gradient.bits": "gradient",
}


@kind(*_SETTINGS, told="dots: every run; lines: means over seeds")
def ranges(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Test accuracy by range rule and mode: a row a width of gradients, a column one of the rest.

    Every run a dot, means joined; dashed: full precision (mode none).
    """
    need(table, *_SETTINGS, "test/accuracy")
    tidy = table[[*_SETTINGS, "seed", "run_id"]].rename(columns=_SETTINGS)
    tidy["accuracy"] = numbers(table, "test/accuracy")
    full = tidy.loc[tidy["mode"] == "none", "accuracy"].mean()
    used = tidy[tidy["mode"] != "none"]
    used = used if len(used) else tidy
    rules = [r for r in ("max", "k_sigma", "quantile", "mse") if (used["range"] == r).any()]
    bits, gradients = (sorted(used[k].unique()) for k in ("bits", "gradient"))
    size = max(4.2, 0.7 * PANEL * len(bits)), 0.4 + 0.6 * PANEL * len(gradients)
    figure = sheet(*size)
    axes = figure.subplots(len(gradients), len(bits), squeeze=False, sharex=True, sharey=True)
    tones = dict(zip(("auto", "fixed"), sns.color_palette("colorblind"), strict=False))
    for row, gradient in zip(axes, reversed(gradients), strict=True):
        for axis, b in zip(row, bits, strict=True):
            here = used[(used["bits"] == b) & (used["gradient"] == gradient)]
            for shift, (mode, tone) in zip((-0.08, 0.08), tones.items(), strict=True):
                mine = here[here["mode"] == mode]
                x = [rules.index(r) + shift for r in mine["range"]]
                axis.plot(x, mine["accuracy"], "o", ms=3, color=tone, alpha=0.6)
                mean = mine.groupby("range")["accuracy"].mean().reindex(rules)
                at = [i + shift for i in range(len(rules))]
                axis.plot(at, mean, color=tone, lw=1, label=_MODES[mode])
            if full == full:
                axis.axhline(full, color="0.3", ls="--", lw=1)
            axis.set_xticks(range(len(rules)), rules)
            axis.set_title(f"{b:g} bits, gradients {gradient:g}")
            percent(axis.yaxis)
        row[0].set_ylabel("test accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("range of a tensor")
    if full == full:
        other(axes[0][0], "--", "full precision", lw=1)
    legend(figure, axes[0][0])
    return figure, tidy


_MODES = {"auto": "each tensor's own", "fixed": "running"}
