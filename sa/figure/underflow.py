"""A running average of few bits: where it stops."""

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._axis import legend, other
from sa.figure._paper import MEANS, Canvas, Sheet, history, kind, need, panels, references


@kind(
    "stored.bits",
    "stored.rounding",
    told=MEANS,
)
def underflow(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Root mean square distance to what is averaged, over steps, by bits and rounding.

    Of runs of dim coordinates on (x - x')^2/2. Mean over seeds with their range; dotted: where it
    rests by the closed form, the middle of what the expectation ``<rounding>_<bits>_...`` allows.
    """
    need(table, "dim", "stored.bits", "stored.rounding")
    kept = ["stored.bits", "stored.rounding", "dim", "seed", "run_id"]
    tidy = history(table, kept, "loss").rename(columns=lambda c: c.removeprefix("stored."))
    tidy["distance"] = np.sqrt(2 * tidy["loss"] / tidy["dim"])
    rests = {tuple(k.split("_")[:2]): v for k, v in references(table).items()}
    figure, axes = panels(sheet, 2, sharey=True)
    bits = sorted(tidy["bits"].unique())
    tones = dict(zip(bits, sns.color_palette("viridis", len(bits)), strict=True))
    for axis, rounding in zip(axes, ("nearest", "stochastic"), strict=True):
        mine = tidy[tidy["rounding"] == rounding]
        for b, some in mine.groupby("bits"):
            got = some.groupby("step")["distance"].agg(["mean", "min", "max"])
            axis.plot(got.index, got["mean"], color=tones[b], label=f"{b:g} bits")
            axis.fill_between(got.index, got["min"], got["max"], color=tones[b], alpha=0.2, lw=0)
            loss = rests.get((rounding, f"{b:g}"))
            if loss is not None:
                rest = np.sqrt(2 * loss / some["dim"].iloc[0])
                axis.axhline(rest, color=tones[b], ls=":", lw=1)
        axis.set(yscale="log", xlabel="step", title=f"rounded {_WORDS[rounding]}")
    axes[0].set_ylabel("distance of the average\nto its target (rms)")
    if rests:
        other(axes[0], ":", "at rest, closed form", lw=1)
    legend(figure, *axes)
    return figure, tidy


_WORDS = {"nearest": "to nearest", "stochastic": "at random"}
