"""Trainings from one common point to a goal: their steps, and their cost in gradients."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._base import MISSED, PANEL, Canvas, Sheet, kind, need, rows_of
from sa.table.results import numbers

GRADIENT = 3.0
"""Forward-equivalents of one gradient."""

_OPTIMIZERS = {"Adam": "Adam", "Muon": "orthogonalised momentum"}


def _branches(table: pd.DataFrame) -> pd.Series:
    return pd.Series([_branch(row) for _, row in table.iterrows()], table.index)


@kind(_branches, spread="lines: the first seed; bars: means over seeds; dots: runs")
def branches(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the loss against gradient-equivalents, and steps and cost to the goal of each branch.

    Lines show the first seed, dots show runs, and bars show their means. Runs that diverged or
    missed the goal are counted beside the bar. The goal is that of ``until``. Without a goal, each
    run's end counts. A gradient-equivalent is a gradient of all training rows, so a minibatch costs
    its share of one, and an epoch of minibatches costs one.
    """
    need(table, "step", "evals", "stopped", "optimizer.lr")
    tidy = table[["seed", "status", "run_id"]].assign(
        branch=_branches(table),
        steps=numbers(table, "step"),
        gradients=numbers(table, "evals") * _per_eval(table),
        loss=numbers(table, "train/loss"),
        accuracy=numbers(table, "test/accuracy"),
        diverged=table["status"].eq("diverged"),
        reached=~table["stopped"].astype(str).str.match(MISSED) & table["status"].ne("diverged"),
    )  # fmt: skip
    met = tidy.assign(steps=tidy["steps"].where(tidy["reached"]))
    order = met.groupby("branch")["steps"].mean().sort_values(na_position="last").index
    figure = sheet(2.9 * PANEL, max(3.2, 0.2 * len(order) + 1.2))
    curves, *bars = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    tones = dict(zip(order, sns.color_palette("husl", len(order)), strict=True))
    first, per_eval = tidy["seed"] == tidy["seed"].min(), _per_eval(table)
    for at in tidy.index[first & ~tidy["diverged"]]:
        rows = rows_of(table)(table.loc[at])
        name = tidy.loc[at, "branch"]
        if per_eval[at] < 1 / GRADIENT:  # the loss of a minibatch is not that of all rows
            rows = rows.reindex(columns=["evals", "train/loss"]).dropna()
            rows = rows.rename(columns={"train/loss": "loss"})
        low = rows["loss"].cummin()  # at the edge of stability the loss itself swings
        curves.plot(rows["evals"] * per_eval[at], low, color=tones[name], lw=0.9)
    curves.set(yscale="log", xscale="log", xlabel="gradient-equivalents after the common point")
    curves.set_ylabel("lowest training loss so far")
    for axis, column, label in (
        (bars[0], "steps", "steps to the goal"),
        (bars[1], "gradients", "gradient-equivalents to the goal"),
    ):
        for place, name in enumerate(order):
            runs = tidy[(tidy["branch"] == name)]
            values = runs.loc[runs["reached"], column]
            axis.barh(place, values.mean() if len(values) else 0, color=tones[name], alpha=0.45)
            axis.plot(values, np.full(len(values), place), ".", ms=4, color="0.2")
            diverged = int(runs["diverged"].sum())
            missed = int((~runs["reached"]).sum()) - diverged
            notes = [f"{diverged} of {len(runs)} diverged"] * bool(diverged)
            notes += [f"{missed} of {len(runs)} missed the goal"] * bool(missed)
            if notes:
                end = values.max() if len(values) else 0
                axis.annotate("; ".join(notes), (end, place), xytext=(3, 0), fontsize=5.5,
                              textcoords="offset points", va="center")  # fmt: skip
        axis.set(xlabel=label, ylim=(len(order) - 0.5, -0.5))
        axis.set_yticks(range(len(order)), order if column == "steps" else [""] * len(order))
        axis.tick_params(axis="y", labelsize=6)
    return figure, tidy


def _per_eval(table: pd.DataFrame) -> pd.Series:
    """Return the gradients of all training rows that one eval of each run's batch costs."""
    share = numbers(table, "batch_size") / numbers(table, "rows")
    return share.clip(upper=1).fillna(1) / GRADIENT


def _branch(run: pd.Series) -> str:
    """Return the name of a run's branch: its optimizer or estimator, with their settings."""
    kind = str(run.get("estimator._target_", "")).rsplit(".", 1)[-1]
    optimizer = str(run.get("optimizer._target_", "SGD")).rsplit(".", 1)[-1]
    lr = f"{run['optimizer.lr']:g}"
    if kind != "Spectral":
        if optimizer != "SGD":
            return f"{_OPTIMIZERS.get(optimizer, optimizer)} {lr}"
        beta = run.get("optimizer.momentum") or 0
        batch = run.get("batch_size")
        part = f", batch {batch:g}" if batch is not None and batch == batch else ""
        if not beta:
            return f"{'SGD' if part else 'GD'} {lr}{part}"
        how = "Nesterov" if str(run.get("optimizer.nesterov")) == "True" else "Polyak"
        return f"{how} {beta:g}, {lr}{part}"
    name = f"{run['estimator.mode']} ×{run['estimator.scale']:g}"
    if run["estimator.mode"] != "global":
        name += f", k {run['estimator.n_filter']:g}"
        rows = run.get("estimator.abridged")
        name += f" of {rows:g} rows" if rows is not None and rows == rows else ""
    if run.get("estimator.momentum"):
        name += f", momentum {run['estimator.momentum']:g} of {lr}"
    guard = run.get("estimator.safeguard")
    return name + (", safe" if guard is not None and guard == guard and guard else "")
