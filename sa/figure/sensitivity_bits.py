"""Rise of the loss by layer and bits, its predictors, and the loss of each bit allocation."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import NullFormatter

from sa.figure._axis import band
from sa.figure._base import MEANS, PANEL, Canvas, Sheet, kind, need
from sa.table.results import numbers

PROXIES = {"gradient": "g·d", "curvature": "tr H |d|²/2n", "taylor": "their sum", "error": "|d|²"}
WAYS = ("even", "greedy", "ilp", "anneal")
AT = "sensitivity_bits/"


@kind(spread=f"{MEANS}; τ: mean over seeds")
def sensitivity_bits(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the rise of the loss by layer, its predictors, and the losses of bit allocations."""
    need(table, f"{AT}layers", f"{AT}bits")
    table = table[table[f"{AT}layers"].notna()]
    tidy = pd.concat([_points(row) for _, row in table.iterrows()], ignore_index=True)
    figure = sheet(2.9 * PANEL, 3.3)
    left, middle, right = figure.subplots(1, 3)
    layers = list(dict.fromkeys(tidy["layer"]))
    for layer, colour in zip(layers, sns.color_palette("viridis", len(layers)), strict=True):
        groups = tidy[tidy["layer"] == layer].groupby("bits")["rise"]
        band(left, groups, "o-", ms=3, color=colour, label=layer)
    largest = float(tidy["rise"].abs().max())
    left.set_yscale("symlog", linthresh=1e-5 * largest or 1.0)
    left.set_xticks(sorted(tidy["bits"].unique()))
    left.set(xlabel="bits of that layer", ylabel="rise of the loss")
    left.legend(frameon=False, fontsize=6)
    for (name, shown), colour in zip(
        PROXIES.items(), sns.color_palette("colorblind"), strict=False
    ):
        if name not in tidy:
            continue
        tau = numbers(table, f"{AT}kendall/{name}").mean()
        both = tidy[(tidy[name] > 0) & (tidy["rise"] > 0)]
        middle.plot(both[name], both["rise"], "o", ms=2.5, color=colour, alpha=0.7,
                    label=f"{shown}  τ = {tau:.2f}")  # fmt: skip
    middle.set(xscale="log", yscale="log", xlabel="predicted rise (both above 0)")
    for axis in (middle.xaxis, middle.yaxis):
        axis.set_minor_formatter(NullFormatter())
    middle.set_ylabel("rise of the loss")
    middle.legend(frameon=False, fontsize=6, handletextpad=0.1)
    ways = [w for w in WAYS if f"{AT}{w}/loss" in table]
    for at, way in enumerate(ways):
        for column, face in (("loss", "C0"), ("heldout", "none")):
            losses = numbers(table, f"{AT}{way}/{column}")
            x = at + np.linspace(-0.15, 0.15, len(losses))
            right.plot(x, losses, "o", ms=3.5, mec="C0", mfc=face)
    right.axhline(float(numbers(table, f"{AT}base").mean()), color="0.4", lw=0.7, ls="--")
    right.annotate("full precision", (0.02, 0.02), xycoords="axes fraction", fontsize=6.5)
    right.set_xticks(range(len(ways)), ways)
    right.set_yscale("log")
    right.yaxis.set_minor_formatter(NullFormatter())
    budget = numbers(table, f"{AT}budget").mean()
    right.set(
        ylabel="loss (open: held-out rows)", xlabel=f"allocation of {budget:g} bits on average"
    )
    return figure, tidy


def _points(row: pd.Series) -> pd.DataFrame:
    """Return a row for each layer and number of bits of a run: the rise and its predictors."""
    out = []
    for layer in str(row[f"{AT}layers"]).split(","):
        known = [p for p in PROXIES if np.size(row.get(f"{AT}{layer}/{p}", [])) > 1]
        columns = {p: row[f"{AT}{layer}/{p}"] for p in known}
        rise = np.asarray(row[f"{AT}{layer}/loss"], float) - row[f"{AT}base"]
        columns |= {"bits": row[f"{AT}bits"], "rise": rise}
        out.append(
            pd.DataFrame(columns).assign(layer=layer, seed=row.get("seed"), run_id=row["run_id"])
        )
    return pd.concat(out)
