"""Stochastic rounding: what its gradient is worth to the network of plain signs."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sa.figure._paper import PANEL, legend, need, numbers, shade_null

_NORMALISER = "quantizer.activation.normaliser"
_PLAIN = ("0.15", "0.5")  # estimators that do not sample


def rounding(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A row a batch size: decrease by step length, best decrease by samples, signs flipped.

    A line a normaliser, estimators that do not sample in grey; means over seeds, held out dashed;
    by step length with the most samples, the band their range over seeds; the null shaded.
    """
    need(table, _NORMALISER, "value", "descent/lr", "descent/decrease")
    tidy = _tidy(table[table["descent/lr"].notna()].reset_index(drop=True))
    sampling = tidy["samples"].notna()
    tones: dict[str, Any] = dict(
        zip(tidy["line"][sampling].unique(), sns.color_palette("colorblind"), strict=False)
    )
    tones |= dict(zip(tidy["line"][~sampling].unique(), _PLAIN, strict=False))
    sizes = sorted(tidy["rows"].unique(), reverse=True)
    figure = Figure(figsize=(2.1 * PANEL, 0.72 * PANEL * len(sizes) + 0.4), dpi=200)
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
            shade_null(axis, axis.get_xlim(), [here["null_best"].mean()] * 2)
        runs = here.groupby(["line", "samples", "seed"], dropna=False)["decrease"].max()
        top = max(runs.max(), 1e-4)
        curve.set(xscale="log", ylim=(-0.5 * top, 1.15 * top), title=f"{size:g} rows")
        curve.set(xlabel=r"step length $\eta$ (direction of unit norm)")
        curve.set_ylabel("loss decrease / loss")
        best.set(xlabel="averaged samples", ylabel="best decrease / loss")
        flipped.set(ylabel="signs flipped by sampling", ylim=(0, 0.5))
        flipped.tick_params(axis="x", rotation=35)
        for axis in (curve, best, flipped):
            axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
            axis.axhline(0, color="0.4", lw=0.6)
    legend(figure, axes[0][0], "held out")
    return figure, tidy


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run and step length."""
    samples, flips = numbers(table, "estimator.samples"), numbers(table, "flip_rate")
    rows = numbers(table, "batch_size").fillna(numbers(table, "dataset.n"))
    null = numbers(table, "descent/null_best") / numbers(table, "value")
    held = table.get("descent/decrease_heldout", table["descent/decrease"])
    found = []
    for i in range(len(table)):
        run = table.iloc[i]
        curve = {"decrease": run["descent/decrease"], "heldout": held[i]}
        curve = {k: np.asarray(v, dtype=float) / run["value"] for k, v in curve.items()}
        line = run["label"] if np.isnan(flips[i]) else run[_NORMALISER]
        mine = {"line": line, "samples": samples[i] if line != run["label"] else np.nan}
        mine |= {"rows": rows[i], "flip_rate": flips[i], "null_best": null[i]}
        found.append(
            pd.DataFrame({"lr": run["descent/lr"], **curve}).assign(seed=run["seed"], **mine)
        )
    return pd.concat(found, ignore_index=True)


def _curve(axis: Axes, mine: pd.DataFrame, line: str, tone: Any) -> None:
    """Decrease against step length, with the most samples there are."""
    most = mine[mine["samples"].isna() | (mine["samples"] == mine["samples"].max())]
    grid = np.geomspace(most["lr"].min(), most["lr"].max(), 80)
    seeds = [g for _, g in most.groupby("seed")]
    for column, style in (("decrease", "-"), ("heldout", "--")):
        on = np.stack([np.interp(grid, g["lr"], g[column]) for g in seeds])
        axis.plot(grid, on.mean(0), style, color=tone, label=line if style == "-" else None)
        if style == "-":
            axis.fill_between(grid, on.min(0), on.max(0), color=tone, alpha=0.12, lw=0)


def _best(axis: Axes, mine: pd.DataFrame, tone: Any) -> None:
    """Best decrease on the batch, and held out at the same step length, by samples."""
    at = mine.loc[mine.groupby(["samples", "seed"], dropna=False)["decrease"].idxmax()]
    for column, style in (("decrease", "-"), ("heldout", "--")):
        got = at.groupby("samples")[column].mean()
        if got.empty:
            axis.axhline(at[column].mean(), ls=style, color=tone, lw=1)
        else:
            axis.plot(got.index, got, style, marker="o", ms=3, color=tone)
