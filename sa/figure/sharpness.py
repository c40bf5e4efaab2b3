"""Leading Hessian eigenvalues over a training, beside the edge of stability of its rate."""

import re
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sa.figure._axis import band
from sa.figure._base import MEDIANS, PANEL, Canvas, Sheet, kind, need, rows_of
from sa.table.results import numbers


@kind(
    "optimizer.lr",
    "model._target_",
    spread=MEDIANS,
)
def sharpness(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw lambda_1 ... lambda_k over steps, the edge m/rate (dashed), and the loss below.

    There is a column for each model and rate. If the gap behind lambda_k is known, lambda_{k+1} is
    grey. The values are those of `analysis=curvature`.
    """
    need(table, "curvature/lambda_1", "optimizer.lr")
    runs = table.assign(lr=numbers(table, "optimizer.lr"), model=_models(table))
    rows = rows_of(table)
    tidy = pd.concat([_steps(run, rows(run)) for _, run in runs.iterrows()], ignore_index=True)
    columns = runs[["model", "lr"]].drop_duplicates().sort_values(["model", "lr"]).values.tolist()
    figure = sheet(max(4.2, 0.8 * PANEL * len(columns)), 4.2)
    axes = figure.subplots(2, len(columns), sharex=True, squeeze=False, height_ratios=[3, 2])
    for low in axes[1][1:]:
        low.sharey(axes[1][0])
    names = sorted({c for c in map(str, tidy) if c[:7] == "lambda_"}, key=lambda c: int(c[7:]))
    tones = sns.color_palette("viridis", len(names))
    for (top, low), (model, rate) in zip(axes.T, columns, strict=True):
        steps = tidy[(tidy["lr"] == rate) & (tidy["model"] == model)]
        for name, tone in reversed(list(zip(names, tones, strict=True))):
            _band(top, steps, name, tone)
        if "next" in steps:
            _band(top, steps, "next", "0.6")
        edge = steps["edge"].dropna().median()
        top.axhline(edge, color="0.2", ls="--", lw=0.9)
        top.set_title(f"{model}η = {rate:g}, m/η = {edge:g} (dashed)")
        _band(low, steps, "loss", sns.color_palette("colorblind")[0])
        low.set(xlabel="step", yscale="log")
        top.set_ylim(0, None)  # not shared: edges differ by factors
    most = len(names)
    shown = f"λ₁ (dark) … λ{str(most).translate(_LOW)}"
    beyond = f", λ{str(most + 1).translate(_LOW)} (grey)" if "next" in tidy else ""
    axes[0][0].set_ylabel(shown + beyond)
    axes[1][0].set_ylabel("training loss")
    return figure, tidy


_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_CURVATURE = re.compile(r"curvature/(edge|lambda_\d+)")


def _models(table: pd.DataFrame) -> list[str]:
    """Return the class of each run's model with a comma, for titles; '' if there is one model."""
    if "model._target_" not in table or table["model._target_"].nunique() < 2:
        return [""] * len(table)
    return [f"{name}, " for name in table["model._target_"].str.rsplit(".").str[-1]]


def _steps(run: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Return step, loss, edge and eigenvalues of a run's rows."""
    known = {c: m[1] for c in map(str, rows) if (m := _CURVATURE.fullmatch(c))}
    steps = rows[["step", "loss", *known]].rename(columns=known)
    if "curvature/gap" in rows:
        steps["next"] = steps[f"lambda_{len(known) - ('edge' in steps)}"] / rows["curvature/gap"]
    return steps.assign(model=run["model"], lr=run["lr"], seed=run["seed"], run_id=run["run_id"])


def _band(axis: Axes, steps: pd.DataFrame, name: str, tone: Any) -> None:
    """Draw the median and the range of a column over runs."""
    values = steps[["step", name]].dropna().groupby("step")[name]
    band(axis, values, middle="median", color=tone, lw=1.1)
