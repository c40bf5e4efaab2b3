"""Loss and accuracy over a training: the median over seeds, and where most of them lie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sa.figure._axis import legend, legend_entry, percent
from sa.figure._base import AXES, Canvas, Sheet, hues, kind, need, panels

QUANTILES = 0.05, 0.95


@kind("label", spread="lines, points: medians over seeds; bands, bars: 5 to 95 % of seeds")
def bands(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the median and the 5 to 95 % band over seeds of each configuration; test dashed.

    If trainings end at different steps, a curve ends with the last but one of its seeds. Values of
    a single step are points with bars, side by side.

    Args:
        table: evaluated steps with ``label``, ``seed``, and ``step`` or the column that
            ``attrs["over"]`` names.
        sheet: what to draw on.

    Raises:
        ValueError: a configuration has one seed, or no step was evaluated.

    """
    over = table.attrs.get("over", "step")
    need(table, "label", "seed", over)
    seeds = table.groupby("label", sort=False)["seed"].nunique()
    if (seeds < 2).any():
        raise ValueError(
            f"'{seeds.idxmin()}' has one seed, and a band needs several: add seeds, e.g. "
            "seed=range(5) or replicas=5; figure=[curves] draws one training"
        )
    ends = [e for e in ("loss", "accuracy") if f"train/{e}" in table or f"test/{e}" in table]
    if not ends:
        raise ValueError("no step was evaluated; set evaluate_every")
    figure, axes = panels(sheet, len(ends))
    colours = hues(list(seeds.index))
    measured = table.filter(regex=rf"^(train|test)/({'|'.join(ends)})$").notna().any(axis=1)
    at = table.loc[measured, over]
    single = float(at.iloc[0]) if at.nunique() == 1 else None
    found = []
    for axis, end in zip(axes, ends, strict=True):
        for split in ("train", "test"):
            column = f"{split}/{end}"
            if column not in table:
                continue
            quantiles = {
                label: _quantiles(rows, over, column)
                for label, rows in table.groupby("label", sort=False)
                if rows[column].notna().any()
            }
            _draw(axis, quantiles, seeds, colours, split == "train", single is not None)
            found += [q.reset_index().assign(label=k, number=column) for k, q in quantiles.items()]
        axis.set(xlabel=AXES.get(over, over), ylabel=end)
        if single is not None:
            axis.set(xlim=(single - 1, single + 1), xticks=[single], xticklabels=[f"{single:g}"])
    tidy = pd.concat(found, ignore_index=True)
    if "loss" in ends:
        axes[0].set_ylabel("loss (mean over rows)")
        if tidy[tidy["number"].str.endswith("loss")]["low"].min() > 0:
            axes[0].set_yscale("log")
    if "accuracy" in ends:
        percent(axes[-1].yaxis)
    if any(f"test/{end}" in table for end in ends):
        points = {} if single is None else {"marker": "o", "mfc": "none"}
        legend_entry(axes[0], "--", "test", **points)
    legend(figure, axes[0])
    return figure, tidy


def _quantiles(rows: pd.DataFrame, over: str, column: str) -> pd.DataFrame:
    """Return low, median and high of a column over seeds, at each x that several seeds reach."""
    rows = rows[[over, column]].dropna()
    several = rows.groupby(over)[over].transform("size") > 1
    groups = rows[several].groupby(over)[column]
    low, high = QUANTILES
    return pd.DataFrame(
        {"low": groups.quantile(low), "median": groups.median(), "high": groups.quantile(high)}
    )


def _draw(
    axis: Axes,
    quantiles: Mapping[Any, pd.DataFrame],
    seeds: pd.Series,
    colours: Mapping[Any, Any],
    train: bool,
    single: bool,
) -> None:
    """Draw the bands of all configurations; points side by side if ``single``."""
    line = "-" if train else "--"
    shifts = np.linspace(-0.5, 0.5, 2 * len(colours) + 1)[1::2]
    shift = dict(zip(colours, shifts + (0 if train else 0.2 / len(colours)), strict=True))
    for label, found in quantiles.items():
        colour, x = colours[label], found.index
        name = f"{label} ({seeds[label]} seeds)" if train else None
        if len(found) == 1:
            x = x + single * shift[label]
            face = colour if train else "none"
            axis.vlines(x, found["low"], found["high"], color=colour, lw=1)
            axis.plot(x, found["median"], line, marker="o", mfc=face, color=colour, label=name)
        else:
            axis.plot(x, found["median"], line, color=colour, label=name)
            axis.fill_between(x, found["low"], found["high"], color=colour, alpha=0.12, lw=0)
