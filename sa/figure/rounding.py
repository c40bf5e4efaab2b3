"""Stochastic rounding: what its gradient is worth to the network of plain signs."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._axis import common, legend, mark_below, other, percent, shade_null, stack
from sa.figure._paper import MEANS, PANEL, Canvas, Sheet, hues, kind, need, numbers
from sa.table import names

_NORMALISER = "quantizer.activation.normaliser"


def _line(table: pd.DataFrame) -> pd.Series:
    sampling = numbers(table, "flip_rate").notna()
    line: pd.Series = table[_NORMALISER].where(sampling, table["label"])
    return line


def _samples(table: pd.DataFrame) -> pd.Series:
    return numbers(table, "estimator.samples").where(numbers(table, "flip_rate").notna())


def _rows(table: pd.DataFrame) -> pd.Series:
    return numbers(table, "batch_size").fillna(numbers(table, "dataset.n"))


@kind(
    _line, _samples, _rows, told=f"{MEANS}; grey band: the best of random directions, least to most"
)
def rounding(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """A row a batch size: decrease by step length, best decrease by samples, signs flipped.

    A line a normaliser, estimators that do not sample in grey; means over seeds, held out dashed;
    by step length with the most samples, the band their range over seeds; the null shaded.
    """
    need(table, _NORMALISER, "value", "descent/lr", "descent/decrease")
    tidy = _tidy(table[table["descent/lr"].notna()].reset_index(drop=True))
    sampling = tidy["samples"].notna()
    tones: dict[str, Any] = hues(list(tidy["line"][sampling].unique()))
    plain = list(tidy["line"][~sampling].unique())
    tones |= dict(zip(plain, sns.color_palette("Greys_d", len(plain))[::-1], strict=True))
    sizes = sorted(tidy["rows"].unique(), reverse=True)
    figure = sheet(2.1 * PANEL, 0.72 * PANEL * len(sizes) + 0.4)
    axes = figure.subplots(len(sizes), 3, squeeze=False, width_ratios=[1.4, 1, 0.8])
    for (curve, best, flipped), size in zip(axes, sizes, strict=True):
        here = tidy[tidy["rows"] == size]
        for line, tone in tones.items():
            mine = here[here["line"] == line]
            if mine.empty:
                continue
            _curve(curve, mine, line, tone)
            _best(best, mine, tone)
            rate = mine["flip_rate"].mean()
            if not np.isnan(rate):
                flipped.bar(line, rate, color=tone)
                flipped.text(line, rate, f"{100 * rate:.0f}", ha="center", va="bottom", fontsize=6)
        for axis in (curve, best):
            if here["null_least"].notna().any():
                low, high = here["null_least"].min(), here["null_most"].max()
                told = "best of random directions"
                shade_null(axis, axis.get_xlim(), [low] * 2, [high] * 2, told)
        runs = here.groupby(["line", "samples", "seed"], dropna=False)["decrease"].max()
        top = max(runs.max(), 1e-4)
        mark_below(curve, -0.5 * top)
        curve.set(xscale="log", ylim=(-0.5 * top, 1.15 * top), title=f"{size:g} rows")
        curve.set(xlabel=r"step length $\eta$ (direction of unit norm)")
        curve.set_ylabel(names.DECREASE)
        if here["samples"].isna().all():  # lines across all the axis, which scale nothing
            best.set_xticks([])
            best.set_ylim(min(0.0, float(runs.min())), 1.15 * top)
        best.set(xlabel="averaged samples", ylabel=names.bare("descent/best"))
        flipped.set(ylabel="signs flipped by sampling", ylim=(0, 0.5))
        flipped.tick_params(axis="x", rotation=35)
        for axis in (curve, best, flipped):
            percent(axis.yaxis)
            axis.axhline(0, color="0.4", lw=0.6)
    other(axes[0][0], "--", "held out")
    legend(figure, *axes[:, 0])
    return figure, tidy


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run and step length."""
    lines, samples, rows = _line(table), _samples(table), _rows(table)
    flips, value = numbers(table, "flip_rate"), numbers(table, "value")
    ends = ("least", "most")
    null = {e: numbers(table, f"descent/null_best_{e}") / value for e in ends}
    held = table.get("descent/decrease_heldout", table["descent/decrease"])
    found = []
    for i in range(len(table)):
        run = table.iloc[i]
        curve = {"decrease": run["descent/decrease"], "heldout": held[i]}
        curve = {k: np.asarray(v, dtype=float) / run["value"] for k, v in curve.items()}
        mine = {"line": lines[i], "samples": samples[i], "rows": rows[i], "flip_rate": flips[i]}
        mine |= {f"null_{e}": null[e][i] for e in ends} | {"run_id": run["run_id"]}
        found.append(
            pd.DataFrame({"lr": run["descent/lr"], **curve}).assign(seed=run["seed"], **mine)
        )
    return pd.concat(found, ignore_index=True)


def _curve(axis: Axes, mine: pd.DataFrame, line: str, tone: Any) -> None:
    """Decrease against step length, with the most samples there are."""
    most = mine[mine["samples"].isna() | (mine["samples"] == mine["samples"].max())]
    seeds = [g for _, g in most.groupby("run_id")]
    grid = common(seeds)
    for column, style in (("decrease", "-"), ("heldout", "--")):
        on = stack(seeds, grid, column)
        axis.plot(grid, on.mean(0), style, color=tone, label=line if style == "-" else None)
        if style == "-":
            axis.fill_between(grid, on.min(0), on.max(0), color=tone, alpha=0.12, lw=0)


def _best(axis: Axes, mine: pd.DataFrame, tone: Any) -> None:
    """Best decrease on the batch, and held out at the same step length, by samples."""
    mine = mine[mine["decrease"].notna()]
    at = mine.loc[mine.groupby(["samples", "seed"], dropna=False)["decrease"].idxmax()]
    for column, style in (("decrease", "-"), ("heldout", "--")):
        got = at.groupby("samples")[column].mean()
        if got.empty:
            axis.axhline(at[column].mean(), ls=style, color=tone, lw=1)
        else:
            axis.plot(got.index, got, style, marker="o", ms=3, color=tone)
