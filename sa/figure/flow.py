"""Gradient descent beside the gradient flow from the same point: how far, how sharp, how deep."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, other
from sa.figure._paper import Canvas, Sheet, kind, need, numbers, panels, steps

SHOWN = {"loss": "training loss", "sharpness": "sharpness λ₁", "distance": "distance"}


def _is_flow(table: pd.DataFrame) -> pd.Series:
    return table["estimator._target_"].str.endswith(".Flow")


@kind("optimizer.lr", _is_flow, told="a line a run")
def flow(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Loss, sharpness with 2/rate, and |w - w_flow|/|w_flow - w(0)| by sketches, over time.

    Time is step times rate. Pairs are runs of one rate and seed; a line a pair of them.
    """
    need(table, "sketch/point", "curvature/lambda_1", "optimizer.lr")
    whole = table.assign(lr=numbers(table, "optimizer.lr"))
    flows = _is_flow(table)
    rows, out = steps(table), []
    for _, pair in whole.groupby(["lr", "seed"]):
        mine = pair[flows[pair.index]], pair[~flows[pair.index]]
        if len(mine[0]) != 1 or len(mine[1]) != 1:
            raise ValueError("a rate and seed need one run of estimator=flow and one of another")
        out += _both(mine[0].iloc[0], mine[1].iloc[0], rows)
    tidy = pd.concat(out, ignore_index=True)
    figure, axes = panels(sheet, 3)
    tones = sns.color_palette("colorblind")
    for (name, _, _), some in tidy.groupby(["what", "lr", "seed"]):
        shown = {"color": tones[0 if name == "flow" else 1], "lw": 1.0}
        for axis, column in zip(axes, SHOWN, strict=True):
            got = some[["time", column]].dropna()
            axis.plot(got["time"], got[column], **shown)
    for name, tone in zip(("flow", "descent"), tones, strict=False):  # a line each, of many runs
        axes[0].plot([], [], color=tone, label=name)
    for rate in tidy["lr"].unique():
        axes[1].axhline(2 / rate, color="0.3", ls="--", lw=0.8)
    axes[0].set_yscale("log")
    axes[2].set_ylim(0, None)
    for axis, told in zip(axes, SHOWN.values(), strict=True):
        axis.set(xlabel="time (step × rate)", ylabel=told)
    axes[2].set_ylabel("|w − flow| / |flow − start|")
    other(axes[0], "--", "2/rate", lw=0.8)
    legend(figure, axes[0])
    return figure, tidy


def _both(
    flow: pd.Series, other: pd.Series, steps_of: Callable[[pd.Series], pd.DataFrame]
) -> list[pd.DataFrame]:
    """Time, loss, sharpness and distance of two runs."""
    rows = {"flow": steps_of(flow), "descent": steps_of(other)}
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
                "run_id": (flow if name == "flow" else other)["run_id"],
                "time": r["step"] * flow["lr"], "loss": r["loss"],
                "sharpness": r["curvature/lambda_1"],
                "distance": r["step"].map(apart) if name == "descent" else np.nan,
            }
        )
        for name, r in rows.items()
    ]  # fmt: skip
