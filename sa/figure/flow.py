"""Gradient descent and the gradient flow from one point: loss, sharpness and their distance."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, legend_entry
from sa.figure._base import Canvas, Sheet, kind, need, panels, rows_of
from sa.table.results import numbers

SHOWN = {"loss": "training loss", "sharpness": "sharpness λ₁", "distance": "distance"}


def _is_flow(table: pd.DataFrame) -> pd.Series:
    return table["estimator._target_"].str.endswith(".Flow")


@kind("optimizer.lr", _is_flow, spread="a line: a run")
def flow(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw loss, sharpness beside 2/rate, and |w - w_flow|/|w_flow - w(0)|, over step times rate.

    The distance is measured on sketches of the parameters. A pair has one rate and seed.
    """
    need(table, "sketch/point", "curvature/lambda_1", "optimizer.lr")
    whole = table.assign(lr=numbers(table, "optimizer.lr"))
    flows = _is_flow(table)
    rows, out = rows_of(table), []
    for _, pair in whole.groupby(["lr", "seed"]):
        flow, descent = pair[flows[pair.index]], pair[~flows[pair.index]]
        if len(flow) != 1 or len(descent) != 1:
            raise ValueError(
                "each optimizer.lr and seed needs two runs, one with estimator=flow and one with "
                f"another estimator; one has {len(flow)} and {len(descent)}"
            )
        out += _both(flow.iloc[0], descent.iloc[0], rows)
    tidy = pd.concat(out, ignore_index=True)
    figure, axes = panels(sheet, 3)
    tones = sns.color_palette("colorblind")
    for (name, _, _), run in tidy.groupby(["what", "lr", "seed"]):
        style = {"color": tones[0 if name == "flow" else 1], "lw": 1.0}
        for axis, column in zip(axes, SHOWN, strict=True):
            points = run[["time", column]].dropna()
            axis.plot(points["time"], points[column], **style)
    for name, tone in zip(("flow", "descent"), tones, strict=False):  # an entry for many lines
        axes[0].plot([], [], color=tone, label=name)
    for rate in tidy["lr"].unique():
        axes[1].axhline(2 / rate, color="0.3", ls="--", lw=0.8)
    axes[0].set_yscale("log")
    axes[2].set_ylim(0, None)
    for axis, label in zip(axes, SHOWN.values(), strict=True):
        axis.set(xlabel="time (step × rate)", ylabel=label)
    axes[2].set_ylabel("|w − flow| / |flow − start|")
    legend_entry(axes[0], "--", "2/rate", lw=0.8)
    legend(figure, axes[0])
    return figure, tidy


def _both(
    flow: pd.Series, descent: pd.Series, steps_of: Callable[[pd.Series], pd.DataFrame]
) -> list[pd.DataFrame]:
    """Return time, loss, sharpness and distance over the steps of two runs."""
    rows = {"flow": steps_of(flow), "descent": steps_of(descent)}
    points = {
        k: r.set_index("step")["sketch/point"].dropna().map(np.asarray) for k, r in rows.items()
    }
    common = points["flow"].index.intersection(points["descent"].index)
    start = points["flow"].iloc[0]
    way = [points["flow"][at] - start for at in common[1:]]
    gap = [points["descent"][at] - points["flow"][at] for at in common[1:]]
    ratio = np.linalg.norm(gap, axis=1) / np.maximum(np.linalg.norm(way, axis=1), 1e-30)
    apart = dict(zip(common[1:], ratio, strict=True))
    return [
        pd.DataFrame(
            {
                "what": name, "lr": flow["lr"], "seed": flow["seed"], "step": r["step"],
                "run_id": (flow if name == "flow" else descent)["run_id"],
                "time": r["step"] * flow["lr"], "loss": r["loss"],
                "sharpness": r["curvature/lambda_1"],
                "distance": r["step"].map(apart) if name == "descent" else np.nan,
            }
        )
        for name, r in rows.items()
    ]  # fmt: skip
