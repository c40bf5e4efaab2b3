"""Loss decrease of the sign network along gradients of its stochastically rounded version."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._axis import legend, legend_entry, mark_below, percent, shade_null, step_lengths
from sa.figure._base import MEANS, PANEL, Canvas, Sheet, hues, kind, need
from sa.table import names
from sa.table.results import numbers

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
    _line,
    _samples,
    _rows,
    spread=f"{MEANS}; grey band: the best of random directions, least to most",
)
def rounding(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw decrease by step length, best decrease by samples, and signs flipped by sampling.

    There is a row of panels for each batch size, and a line for each normaliser; estimators that
    do not sample are grey, held-out rows dashed. The left panel has the most samples of each line.
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
            runs = here[here["line"] == line]
            if runs.empty:
                continue
            most = runs[runs["samples"].isna() | (runs["samples"] == runs["samples"].max())]
            step_lengths(curve, [g for _, g in most.groupby("run_id")], "heldout", line, tone)
            _best(best, runs, tone)
            rate = runs["flip_rate"].mean()
            if not np.isnan(rate):
                flipped.bar(line, rate, color=tone)
                flipped.text(line, rate, f"{100 * rate:.0f}", ha="center", va="bottom", fontsize=6)
        low, high = here["null_least"].min(), here["null_most"].max()
        for axis in (curve, best) if low == low else ():
            ends = axis.get_xlim()
            shade_null(axis, ends, [low] * 2, [high] * 2, "best of random directions")
        bests = here.groupby(["line", "samples", "seed"], dropna=False)["decrease"].max()
        top = max(bests.max(), 1e-4)
        mark_below(curve, -0.5 * top)
        curve.set(xscale="log", ylim=(-0.5 * top, 1.15 * top), title=f"{size:g} rows")
        curve.set(xlabel=r"step length $\eta$ (direction of unit norm)")
        curve.set_ylabel(names.DECREASE)
        if here["samples"].isna().all():  # lines across the whole axis do not scale it
            best.set_xticks([])
            best.set_ylim(min(0.0, float(bests.min())), 1.15 * top)
        else:
            best.set_xticks(sorted(here["samples"].dropna().unique()))
        best.set(xlabel="samples averaged", ylabel=names.bare("descent/best"))
        flipped.set(ylabel="signs flipped by sampling", ylim=(0, 0.5))
        flipped.tick_params(axis="x", rotation=35)
        for axis in (curve, best, flipped):
            percent(axis.yaxis)
            axis.axhline(0, color="0.4", lw=0.6)
    legend_entry(axes[0][0], "--", "held-out rows")
    legend(figure, *axes[:, 0])
    return figure, tidy


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run and step length, relative to the loss of the run."""
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
        about = {"line": lines[i], "samples": samples[i], "rows": rows[i], "flip_rate": flips[i]}
        about |= {f"null_{e}": null[e][i] for e in ends} | {k: run[k] for k in ("run_id", "seed")}
        found.append(pd.DataFrame({"lr": run["descent/lr"], **curve}).assign(**about))
    return pd.concat(found, ignore_index=True)


def _best(axis: Axes, runs: pd.DataFrame, tone: Any) -> None:
    """Draw the best decrease on the batch, and held out at the same step length, by samples."""
    runs = runs[runs["decrease"].notna()]
    at = runs.loc[runs.groupby(["samples", "seed"], dropna=False)["decrease"].idxmax()]
    for column, style in (("decrease", "-"), ("heldout", "--")):
        means = at.groupby("samples")[column].mean()
        if means.empty:
            axis.axhline(at[column].mean(), ls=style, color=tone, lw=1)
        else:
            axis.plot(means.index, means, style, marker="o", ms=3, color=tone)
