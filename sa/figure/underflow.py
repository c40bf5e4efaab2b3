"""Distance of a low-precision running average to its target, and where it stops falling."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import band, legend, legend_entry
from sa.figure._base import MEANS, Canvas, Sheet, expected_values, history, kind, need, panels


@kind("stored.bits", "stored.rounding", spread=MEANS)
def underflow(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the root mean square distance over steps, by bits and rounding.

    The runs have ``dim`` coordinates and the loss (x - x')^2/2. The dotted line is the distance at
    rest by the closed form: the middle of the expectation ``<rounding>_<bits>_...``.
    """
    need(table, "dim", "stored.bits", "stored.rounding")
    columns = ["stored.bits", "stored.rounding", "dim", "seed", "run_id"]
    tidy = history(table, columns, "loss").rename(columns=lambda c: c.removeprefix("stored."))
    tidy["distance"] = np.sqrt(2 * tidy["loss"] / tidy["dim"])
    rests = {tuple(k.split("_")[:2]): v for k, v in expected_values(table).items()}
    figure, axes = panels(sheet, 2, sharey=True)
    bits = sorted(tidy["bits"].unique())
    tones = dict(zip(bits, sns.color_palette("viridis", len(bits)), strict=True))
    for axis, rounding in zip(axes, ("nearest", "stochastic"), strict=True):
        for b, steps in tidy[tidy["rounding"] == rounding].groupby("bits"):
            band(axis, steps.groupby("step")["distance"], color=tones[b], label=f"{b:g} bits")
            loss = rests.get((rounding, f"{b:g}"))
            if loss is not None:
                rest = np.sqrt(2 * loss / steps["dim"].iloc[0])
                axis.axhline(rest, color=tones[b], ls=":", lw=1)
        axis.set(yscale="log", xlabel="step", title=f"rounding: {rounding}")
    axes[0].set_ylabel("rms distance of the\naverage to its target")
    if rests:
        legend_entry(axes[0], ":", "at rest, closed form", lw=1)
    legend(figure, *axes)
    return figure, tidy
