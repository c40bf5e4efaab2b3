"""The sharpest directions over a training, beside what its rate is stable for."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._paper import MEDIANS, PANEL, Canvas, Sheet, kind, need, numbers, steps


@kind(
    "optimizer.lr",
    "model._target_",
    told=MEDIANS,
)
def sharpness(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """lambda_1 ... lambda_k over steps and the edge m/rate (dashed), a column a rate; losses below.

    Where the gap behind lambda_k is known, lambda_{k+1} is grey.
    Of several models a column a model and rate. Lines are medians over runs, bands their range.
    The numbers are those of `analysis=curvature`.
    """
    need(table, "curvature/lambda_1", "optimizer.lr")
    known = table.assign(lr=numbers(table, "optimizer.lr"), model=_models(table))
    rows = steps(table)
    tidy = pd.concat([_steps(run, rows(run)) for _, run in known.iterrows()], ignore_index=True)
    there = known[["model", "lr"]].drop_duplicates().sort_values(["model", "lr"]).values.tolist()
    figure = sheet(max(4.2, 0.8 * PANEL * len(there)), 4.2)
    axes = figure.subplots(2, len(there), sharex=True, squeeze=False, height_ratios=[3, 2])
    for low in axes[1][1:]:
        low.sharey(axes[1][0])
    names = sorted({c for c in map(str, tidy) if c[:7] == "lambda_"}, key=lambda c: int(c[7:]))
    tones = sns.color_palette("viridis", len(names))
    for (top, low), (model, rate) in zip(axes.T, there, strict=True):
        mine = tidy[(tidy["lr"] == rate) & (tidy["model"] == model)]
        for name, tone in reversed(list(zip(names, tones, strict=True))):
            _band(top, mine, name, tone)
        if "next" in mine:
            _band(top, mine, "next", "0.6")
        edge = mine["edge"].dropna().median()
        top.axhline(edge, color="0.2", ls="--", lw=0.9)
        top.set_title(f"{model}η = {rate:g}, m/η = {edge:g} (dashed)")
        _band(low, mine, "loss", sns.color_palette("colorblind")[0])
        low.set(xlabel="step", yscale="log")
        top.set_ylim(0, None)  # of its own: edges differ by factors
    most = len(names)
    told = f"λ₁ (dark) … λ{str(most).translate(_LOW)}"
    beyond = f", λ{str(most + 1).translate(_LOW)} (grey)" if "next" in tidy else ""
    axes[0][0].set_ylabel(told + beyond)
    axes[1][0].set_ylabel("training loss")
    return figure, tidy


_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _models(table: pd.DataFrame) -> list[str]:
    """Of several models their classes, as a title begins with them; else nothing."""
    if "model._target_" not in table or table["model._target_"].nunique() < 2:
        return [""] * len(table)
    return [f"{name}, " for name in table["model._target_"].str.rsplit(".").str[-1]]


def _steps(run: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Step, loss, edge and eigenvalues of a run's rows."""
    known = {c: c.removeprefix("curvature/") for c in map(str, rows) if _wanted(c)}
    told = rows[["step", "loss", *known]].rename(columns=known)
    if "curvature/gap" in rows:
        told["next"] = told[f"lambda_{len(known) - ('edge' in told)}"] / rows["curvature/gap"]
    return told.assign(model=run["model"], lr=run["lr"], seed=run["seed"], run_id=run["run_id"])


def _wanted(column: str) -> bool:
    name = column.removeprefix("curvature/")
    return name != column and (name == "edge" or name.removeprefix("lambda_").isdigit())


def _band(axis: Axes, rows: pd.DataFrame, name: str, tone: Any) -> None:
    got = rows[["step", name]].dropna().groupby("step")[name]
    middle = got.median()
    axis.plot(middle.index, middle, color=tone, lw=1.1)
    axis.fill_between(middle.index, got.min(), got.max(), color=tone, alpha=0.25, lw=0)
