"""Loss and accuracy over the steps of one training."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import percent
from sa.figure._base import AXES, Canvas, new_figure, panels


def curves(rows: pd.DataFrame, title: str) -> tuple[Canvas, pd.DataFrame]:
    """Draw loss and accuracy over steps; raise ValueError if there is one row."""
    if len(rows) < 2:
        raise ValueError("the run has one row, so it has no curves; set steps or epochs to train")
    columns = [c for c in ("loss", *_splits("loss"), *_splits("accuracy")) if c in rows]
    over = rows.attrs.get("over", "step")
    tidy = rows[list(dict.fromkeys(["step", over, *columns]))]
    ends = [e for e in ("loss", "accuracy") if any(f"{s}/{e}" in rows for s in ("train", "test"))]
    figure, axes = panels(new_figure, max(1, len(ends)))
    colours = dict(zip(("train", "test"), sns.color_palette("colorblind"), strict=False))
    if "loss" in rows:
        axes[0].plot(rows[over], rows["loss"], color="0.85", lw=0.6, label="minibatch", zorder=0)
    for axis, end in zip(axes, ends or ["loss"], strict=True):
        for split, colour in colours.items():
            if f"{split}/{end}" in rows:
                points = rows[[over, f"{split}/{end}"]].dropna()
                axis.plot(points[over], points.iloc[:, 1], color=colour, label=split)
        axis.set(xlabel=AXES.get(over, over), ylabel=end)
    drawn = np.concatenate([line.get_ydata() for line in axes[0].lines])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() > 10 * drawn.min():
        axes[0].set_yscale("log")
    axes[0].set_ylabel("loss (mean over rows)")
    axes[0].legend(frameon=False)
    if "test/accuracy" in rows and len(axes) > 1:
        last = rows["test/accuracy"].dropna().iloc[-1]
        axes[1].axhline(last, color=colours["test"], lw=0.6, ls=":")
        axes[1].annotate(f"test {100 * last:.1f} %", (0.98, last), ha="right", va="top",
                         xycoords=("axes fraction", "data"), xytext=(0, -4),
                         textcoords="offset points")  # fmt: skip
        percent(axes[1].yaxis)
    if title:
        figure.suptitle(title, fontsize=8.5)
    return figure, tidy


def _splits(end: str) -> tuple[str, str]:
    return f"train/{end}", f"test/{end}"
