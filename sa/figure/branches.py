"""Trainings that branch from one point, to a goal: in steps, and in what they cost."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers, steps

GRADIENT = 3.0
"""Forward-equivalents of one gradient."""

_OPTIMIZERS = {"Adam": "Adam", "Muon": "orthogonalised momentum"}


def _branches(table: pd.DataFrame) -> pd.Series:
    return pd.Series([_branch(row) for _, row in table.iterrows()], table.index)


@kind(_branches, told="lines: the first seed; bars: means over seeds; dots: runs")
def branches(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """The loss against gradient-equivalents, and a row a branch: steps and cost to the goal.

    Lines are the first seed's, dots runs, bars their means; what diverged or did not reach the goal
    is told and has no dot. The goal is that of ``until``; without one the end of each run counts.
    """
    need(table, "step", "evals", "stopped", "optimizer.lr")
    tidy = table[["seed", "status", "run_id"]].assign(
        branch=_branches(table),
        steps=numbers(table, "step"),
        gradients=numbers(table, "evals") / GRADIENT,
        loss=numbers(table, "train/loss"),
        accuracy=numbers(table, "test/accuracy"),
        diverged=table["status"].eq("diverged"),
        reached=~table["stopped"].isin(["steps"]) & table["status"].ne("diverged"),
    )  # fmt: skip
    met = tidy.assign(steps=tidy["steps"].where(tidy["reached"]))
    order = met.groupby("branch")["steps"].mean().sort_values(na_position="last").index
    figure = sheet(2.9 * PANEL, max(3.2, 0.2 * len(order) + 1.2))
    curves, *bars = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    tones = dict(zip(order, sns.color_palette("husl", len(order)), strict=True))
    first = tidy["seed"] == tidy["seed"].min()
    for at in tidy.index[first & ~tidy["diverged"]]:
        rows = steps(table)(table.loc[at])
        name = tidy.loc[at, "branch"]
        low = rows["loss"].cummin()  # at the edge of stability the loss itself swings
        curves.plot(rows["evals"] / GRADIENT, low, color=tones[name], lw=0.9)
    curves.set(yscale="log", xscale="log", xlabel="gradient-equivalents after the branching point")
    curves.set_ylabel("lowest training loss so far")
    for axis, column, told in (
        (bars[0], "steps", "steps to the goal"),
        (bars[1], "gradients", "gradient-equivalents to the goal"),
    ):
        for place, name in enumerate(order):
            some = tidy[(tidy["branch"] == name)]
            good = some.loc[some["reached"], column]
            axis.barh(place, good.mean() if len(good) else 0, color=tones[name], alpha=0.45)
            axis.plot(good, np.full(len(good), place), ".", ms=4, color="0.2")
            lost, late = int(some["diverged"].sum()), int((~some["reached"]).sum())
            late -= lost
            words = [f"{lost} of {len(some)} diverged"] * bool(lost)
            words += [f"{late} of {len(some)} not reached"] * bool(late)
            if words:
                end = good.max() if len(good) else 0
                axis.annotate("; ".join(words), (end, place), xytext=(3, 0), fontsize=5.5,
                              textcoords="offset points", va="center")  # fmt: skip
        axis.set(xlabel=told, ylim=(len(order) - 0.5, -0.5))
        axis.set_yticks(range(len(order)), order if column == "steps" else [""] * len(order))
        axis.tick_params(axis="y", labelsize=6)
    return figure, tidy


def _branch(run: pd.Series) -> str:
    """What a run did after the branching point, in words."""
    kind = str(run.get("estimator._target_", "")).rsplit(".", 1)[-1]
    optimizer = str(run.get("optimizer._target_", "SGD")).rsplit(".", 1)[-1]
    lr = f"{run['optimizer.lr']:g}"
    if kind != "Spectral":
        if optimizer != "SGD":
            return f"{_OPTIMIZERS.get(optimizer, optimizer)} {lr}"
        beta = run.get("optimizer.momentum") or 0
        if not beta:
            return f"GD {lr}"
        how = "Nesterov" if str(run.get("optimizer.nesterov")) == "True" else "Polyak"
        return f"{how} {beta:g}, {lr}"
    told = f"{run['estimator.mode']} ×{run['estimator.scale']:g}"
    if run["estimator.mode"] != "global":
        told += f", k {run['estimator.n_filter']:g}"
    if run.get("estimator.momentum"):
        told += f", momentum {run['estimator.momentum']:g} of {lr}"
    guard = run.get("estimator.safeguard")
    return told + (", safe" if guard is not None and guard == guard and guard else "")
