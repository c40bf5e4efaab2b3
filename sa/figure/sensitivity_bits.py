"""Loss by layer and bits, what predicts it, and what bits under a budget give."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import NullFormatter

from sa.figure._paper import PANEL, Canvas, Sheet, kind, need, numbers

PROXIES = {"gradient": "g·d", "curvature": "tr H |d|²/2n", "taylor": "their sum", "error": "|d|²"}
WAYS = ("even", "greedy", "ilp", "anneal")
AT = "sensitivity_bits/"


@kind(told="lines: means over seeds; bands: least to most over seeds; τ: mean over seeds")
def sensitivity_bits(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Rise of the loss against bits, a line a layer; proxies against it; allocations' losses.

    Means over runs with their range as a band; taus are means over runs.
    """
    need(table, f"{AT}layers", f"{AT}bits")
    table = table[table[f"{AT}layers"].notna()]
    tidy = pd.concat([_points(row) for _, row in table.iterrows()], ignore_index=True)
    figure = sheet(2.9 * PANEL, 3.3)
    left, middle, right = figure.subplots(1, 3)
    layers = list(dict.fromkeys(tidy["layer"]))
    for layer, colour in zip(layers, sns.color_palette("viridis", len(layers)), strict=True):
        got = tidy[tidy["layer"] == layer].groupby("bits")["rise"].agg(["mean", "min", "max"])
        left.plot(got.index, got["mean"], "o-", ms=3, color=colour, label=layer)
        left.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
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
    middle.set(xscale="log", yscale="log", xlabel="predicted (where both rise)")
    for axis in (middle.xaxis, middle.yaxis):
        axis.set_minor_formatter(NullFormatter())
    middle.set_ylabel("rise of the loss")
    middle.legend(frameon=False, fontsize=6, handletextpad=0.1)
    there = [w for w in WAYS if f"{AT}{w}/loss" in table]
    for at, way in enumerate(there):
        for column, face in (("loss", "C0"), ("heldout", "none")):
            mine = numbers(table, f"{AT}{way}/{column}")
            right.plot(
                at + np.linspace(-0.15, 0.15, len(mine)), mine, "o", ms=3.5, mec="C0", mfc=face
            )
    right.axhline(float(numbers(table, f"{AT}base").mean()), color="0.4", lw=0.7, ls="--")
    right.annotate("full precision", (0.02, 0.02), xycoords="axes fraction", fontsize=6.5)
    right.set_xticks(range(len(there)), there)
    right.set_yscale("log")
    right.yaxis.set_minor_formatter(NullFormatter())
    budget = numbers(table, f"{AT}budget").mean()
    right.set(ylabel="loss (held out: open)", xlabel=f"bits for all layers, {budget:g} on average")
    return figure, tidy


def _points(row: pd.Series) -> pd.DataFrame:
    """A row a layer and width of one run: the rise and what predicts it."""
    out = []
    for layer in str(row[f"{AT}layers"]).split(","):
        kept = [p for p in PROXIES if np.size(row.get(f"{AT}{layer}/{p}", [])) > 1]
        columns = {p: row[f"{AT}{layer}/{p}"] for p in kept}
        rise = np.asarray(row[f"{AT}{layer}/loss"], float) - row[f"{AT}base"]
        columns |= {"bits": row[f"{AT}bits"], "rise": rise}
        out.append(
            pd.DataFrame(columns).assign(layer=layer, seed=row.get("seed"), run_id=row["run_id"])
        )
    return pd.concat(out)
