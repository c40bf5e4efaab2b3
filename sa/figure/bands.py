"""Loss and accuracy over a training: the median over seeds, and where most of them lie."""

import numpy as np
import pandas as pd

from sa.figure._axis import legend, other, percent
from sa.figure._paper import AXES, Canvas, Sheet, hues, kind, need, panels

QUANTILES = 0.05, 0.95


@kind("label", told="lines, points: medians over seeds; bands, bars: 5 to 95 % of seeds")
def bands(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Median and 5 to 95 % band over seeds of every kind of training; tests dashed.

    Where trainings end at different steps a curve ends with the last but one of its seeds. What
    was evaluated at one step alone is a point, its band a bar, side by side.
    table: evaluated steps, with ``label``, ``seed`` and ``step``, or what ``attrs["over"]`` names.
    Raises ValueError where a kind has one seed.
    """
    rows = table
    over = rows.attrs.get("over", "step")
    need(rows, "label", "seed", over)
    seeds = rows.groupby("label", sort=False)["seed"].nunique()
    if (seeds < 2).any():
        raise ValueError(
            f"'{seeds.idxmin()}' has one seed, and a band is over several: add seeds, e.g. "
            "seed=range(5) or replicas=5; one training is drawn by figure=[curves]"
        )
    ends = [e for e in ("loss", "accuracy") if f"train/{e}" in rows or f"test/{e}" in rows]
    if not ends:
        raise ValueError("no step was evaluated; set evaluate_every")
    figure, axes = panels(sheet, len(ends))
    colours = hues(list(seeds.index))
    apart = dict(zip(colours, np.linspace(-0.5, 0.5, 2 * len(colours) + 1)[1::2], strict=True))
    measured = rows.filter(regex=rf"^(train|test)/({'|'.join(ends)})$").notna().any(axis=1)
    single = rows.loc[measured, over].nunique() == 1
    told = []
    for axis, end in zip(axes, ends, strict=True):
        for split, line in (("train", "-"), ("test", "--")):
            if f"{split}/{end}" not in rows:
                continue
            mine = rows[["label", over, f"{split}/{end}"]].dropna()
            for label, some in mine.groupby("label", sort=False):
                several = some.groupby(over)[over].transform("size") > 1
                steps = some[several].groupby(over)[f"{split}/{end}"]
                low, middle, high = (steps.quantile(q) for q in (QUANTILES[0], 0.5, QUANTILES[1]))
                name = f"{label} ({seeds[label]} seeds)" if line == "-" else None
                colour = colours[label]
                if len(middle) == 1:
                    beside = apart[label] + (0 if name else 0.2 / len(colours))
                    x, face = middle.index + single * beside, colour if name else "none"
                    axis.vlines(x, low, high, color=colour, lw=1)
                    axis.plot(x, middle, line, marker="o", mfc=face, color=colour, label=name)
                else:
                    axis.plot(middle.index, middle, line, color=colour, label=name)
                    axis.fill_between(middle.index, low, high, color=colour, alpha=0.12, lw=0)
                got = pd.DataFrame({"low": low, "median": middle, "high": high})
                told.append(got.reset_index().assign(label=label, number=f"{split}/{end}"))
        axis.set(xlabel=AXES.get(over, over), ylabel=end)
        if single:
            at = float(rows.loc[measured, over].iloc[0])
            axis.set(xlim=(at - 1, at + 1), xticks=[at], xticklabels=[f"{at:g}"])
    tidy = pd.concat(told, ignore_index=True)
    if "loss" in ends:
        axes[0].set_ylabel("loss (mean over rows)")
        if tidy[tidy["number"].str.endswith("loss")]["low"].min() > 0:
            axes[0].set_yscale("log")
    if "accuracy" in ends:
        percent(axes[-1].yaxis)
    if any(f"test/{end}" in rows for end in ends):
        other(axes[0], "--", "test", **({"marker": "o", "mfc": "none"} if single else {}))
    legend(figure, axes[0])
    return figure, tidy
