"""The functions that networks of one input have learnt, beside the target function."""

import textwrap

import numpy as np
import pandas as pd

from sa.figure._axis import legend
from sa.figure._base import PANEL, Canvas, Sheet, hues, kind, need
from sa.table.results import numbers


@kind("configuration", spread="thin: every seed; thick: median over seeds")
def function_curve(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw the target, the networks' outputs and residuals, with a panel for each configuration."""
    need(table, "function_curve/x", "function_curve/value")
    table = table[table["function_curve/value"].notna()]
    table = table.assign(dead=numbers(table, "function_curve/collapsed"))
    kinds = list(dict.fromkeys(table["configuration"]))
    across = min(len(kinds), 5)
    down = -(-len(kinds) // across)
    figure = sheet(max(4.2, 0.62 * PANEL * across), PANEL * down)
    axes = figure.subplots(2 * down, across, squeeze=False, sharex="col", sharey="row",
                           height_ratios=[2, 1] * down)  # fmt: skip
    places = [(axes[2 * row][at], axes[2 * row + 1][at])
              for row in range(down) for at in range(across)]  # fmt: skip
    for spare in places[len(kinds) :]:
        for axis in spare:
            axis.remove()
    colours = hues(kinds)
    tidy = []
    for (upper, lower), one in zip(places, kinds, strict=False):
        runs, colour = table[table["configuration"] == one], colours[one]
        x, truth = (np.array(runs.iloc[0][f"function_curve/{k}"]) for k in ("x", "truth"))
        values = np.stack([np.array(v) for v in runs["function_curve/value"]])
        for value in values:
            upper.plot(x, value, color=colour, lw=0.4, alpha=0.6)
            lower.plot(x, value - truth, color=colour, lw=0.4, alpha=0.6)
        middle = np.median(values, axis=0)
        upper.plot(x, middle, color=colour, lw=1.8, label="median over seeds")
        upper.plot(x, truth, ":", color="0.1", lw=1.2, label="target function")
        lower.plot(x, middle - truth, color=colour, lw=1.8)
        lower.axhline(0, color="0.4", lw=0.6)
        lower.set_xlabel("x")
        title = "\n".join(textwrap.wrap(one, 22))
        upper.set_title(f"{title}\n{int(runs['dead'].sum())} of {len(runs)} collapsed", fontsize=7)
        for seed, run, value in zip(runs["seed"], runs["run_id"], values, strict=True):
            about = {"kind": one, "seed": seed, "run_id": run}
            tidy.append(pd.DataFrame(about | {"x": x, "truth": truth, "value": value}))
    for upper, lower in axes[:, 0].reshape(-1, 2):
        upper.set_ylabel("network's output")
        lower.set_ylabel("residual")
    legend(figure, axes[0][0])
    return figure, pd.concat(tidy, ignore_index=True)
