"""The sharpest directions over a training, beside what its rate is stable for."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sa.figure._paper import PANEL, need, numbers


def sharpness(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """lambda_1 ... lambda_k over steps and the edge m/rate (dashed), a column a rate; losses below.

    Lines are medians over runs of one rate, bands their range. The numbers are those of
    `analysis=curvature`.
    """
    need(table, "curvature/lambda_1", "optimizer.lr", "rows")
    known = table.assign(lr=numbers(table, "optimizer.lr"))
    steps = [_steps(row).assign(lr=row["lr"], seed=row["seed"]) for _, row in known.iterrows()]
    tidy = pd.concat(steps, ignore_index=True)
    there = sorted(known["lr"].unique())
    figure = Figure(figsize=(max(4.2, 0.8 * PANEL * len(there)), 4.2), dpi=200)
    axes = figure.subplots(
        2, len(there), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2]
    )
    names = sorted({c for c in map(str, tidy) if c[:7] == "lambda_"}, key=lambda c: int(c[7:]))
    tones = sns.color_palette("viridis", len(names))
    for (top, low), rate in zip(axes.T, there, strict=True):
        mine = tidy[tidy["lr"] == rate]
        for name, tone in reversed(list(zip(names, tones, strict=True))):
            _band(top, mine, name, tone)
        edge = mine["edge"].dropna().median()
        top.axhline(edge, color="0.2", ls="--", lw=0.9)
        top.set_title(f"η = {rate:g}: stable below m/η = {edge:g} (dashed)")
        _band(low, mine, "loss", sns.color_palette("colorblind")[0])
        low.set(xlabel="step", yscale="log")
    most = len(names)
    axes[0][0].set(ylabel=f"λ₁ (dark) … λ{str(most).translate(_LOW)}", ylim=(0, None))
    axes[1][0].set_ylabel("training loss")
    return figure, tidy


_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _steps(run: pd.Series) -> pd.DataFrame:
    """Step, loss, edge and eigenvalues of a run's rows."""
    rows = pd.DataFrame(run["rows"])
    known = {c: c.removeprefix("curvature/") for c in map(str, rows) if _wanted(c)}
    return rows[["step", "loss", *known]].rename(columns=known)


def _wanted(column: str) -> bool:
    name = column.removeprefix("curvature/")
    return name != column and (name == "edge" or name.removeprefix("lambda_").isdigit())


def _band(axis: Axes, rows: pd.DataFrame, name: str, tone: Any) -> None:
    got = rows[["step", name]].dropna().groupby("step")[name]
    middle = got.median()
    axis.plot(middle.index, middle, color=tone, lw=1.1)
    axis.fill_between(middle.index, got.min(), got.max(), color=tone, alpha=0.25, lw=0)
