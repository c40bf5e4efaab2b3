"""Cosine to each reference gradient, layer by layer."""

import re

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._label import activations, reference
from sa.figure._paper import Canvas, Sheet, kind, need, numbers, references

_LAYER = re.compile(r"alignment/(\w[\w.]*)/cosine(?:/(\S+))?")


@kind("activation", told="cells: means over seeds; in brackets: expected")
def cosine_layers(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Heat map of the cosine by activation and layer, a panel a reference; ``all``: them together.

    Mean over seeds; in brackets what is expected, the middle of the range of the expectation named
    ``<activation>_<reference>_<layer>``.
    """
    columns = {c: m.groups() for c in map(str, table) if (m := _LAYER.fullmatch(c))}
    if not columns:
        need(table, "alignment/eps0.1/cosine")
    names = list(dict.fromkeys((layer or "all").split(".")[0] for _, layer in columns.values()))
    names = [n for n in names if n != "all"] + ["all"]
    wanted = references(table)
    tidy = pd.DataFrame(
        [
            {
                "activation": activation, "reference": told,
                "layer": (layer or "all").split(".")[0],
                "cosine": numbers(some, column).mean(), "runs": int(some[column].notna().sum()),
            }
            for column, (told, layer) in columns.items()
            for activation, some in table.groupby("activation")
        ]
    )  # fmt: skip
    tidy["expected"] = [
        wanted.get(f"{a}_{r}_{k}", np.nan)
        for a, r, k in zip(tidy["activation"], tidy["reference"], tidy["layer"], strict=True)
    ]
    kinds, rows = list(dict.fromkeys(tidy["reference"])), activations(table)
    size = 1.2 + 0.62 * len(names) * len(kinds), 0.9 + 0.42 * len(rows)
    figure = sheet(max(4.2, size[0]), max(2.0, size[1]))
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, one in zip(axes, kinds, strict=True):
        mine = tidy[tidy["reference"] == one]
        grids = {
            k: mine.pivot(index="activation", columns="layer", values=k).reindex(
                index=rows, columns=names
            )
            for k in ("cosine", "expected")
        }
        both = zip(grids["cosine"].to_numpy(), grids["expected"].to_numpy(), strict=True)
        told = [[_told(m, w) for m, w in zip(*row, strict=True)] for row in both]
        sns.heatmap(
            grids["cosine"], ax=axis, vmin=0, vmax=1, cmap="viridis", annot=np.array(told), fmt="",
            annot_kws={"size": 6}, cbar=False, linewidths=0.5,
        )  # fmt: skip
        axis.set(xlabel="layer", ylabel="", title=f"cosine to {reference(table, one)}")
        axis.tick_params(length=0, rotation=0)
    return figure, tidy


def _told(measured: float, wanted: float) -> str:
    if np.isnan(measured):
        return ""
    return f"{measured:.3f}" + ("" if np.isnan(wanted) else f"\n({wanted:.3f})")
