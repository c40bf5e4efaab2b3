"""Cosine to each reference gradient, by layer and activation."""

import re

import numpy as np
import pandas as pd
import seaborn as sns

from sa.figure._base import Canvas, Sheet, expected_values, kind, need
from sa.figure._label import activations
from sa.table.results import numbers, reference

_LAYER = re.compile(r"alignment/(\w[\w.]*)/cosine(?:/(\S+))?")


@kind("activation", spread="cells: means over seeds; in brackets: expected")
def cosine_layers(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw a heat map of the cosine by activation and layer, with a panel for each reference.

    The layer ``all`` is the whole gradient. Brackets show the expected value: the middle of the
    expectation ``<activation>_<reference>_<layer>``.
    """
    columns = {c: m.groups() for c in map(str, table) if (m := _LAYER.fullmatch(c))}
    if not columns:
        need(table, "alignment/eps0.1/cosine")
    names = list(dict.fromkeys((layer or "all").split(".")[0] for _, layer in columns.values()))
    names = [n for n in names if n != "all"] + ["all"]
    expected = expected_values(table)
    tidy = pd.DataFrame(
        [
            {
                "activation": activation, "reference": name,
                "layer": (layer or "all").split(".")[0],
                "cosine": numbers(some, column).mean(), "runs": int(some[column].notna().sum()),
            }
            for column, (name, layer) in columns.items()
            for activation, some in table.groupby("activation")
        ]
    )  # fmt: skip
    tidy["expected"] = [
        expected.get(f"{a}_{r}_{k}", np.nan)
        for a, r, k in zip(tidy["activation"], tidy["reference"], tidy["layer"], strict=True)
    ]
    kinds, rows = list(dict.fromkeys(tidy["reference"])), activations(table)
    size = 1.2 + 0.62 * len(names) * len(kinds), 0.9 + 0.42 * len(rows)
    figure = sheet(max(4.2, size[0]), max(2.0, size[1]))
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, one in zip(axes, kinds, strict=True):
        cells = tidy[tidy["reference"] == one]
        grids = {
            k: cells.pivot(index="activation", columns="layer", values=k).reindex(
                index=rows, columns=names
            )
            for k in ("cosine", "expected")
        }
        both = zip(grids["cosine"].to_numpy(), grids["expected"].to_numpy(), strict=True)
        texts = [[_text(m, e) for m, e in zip(*row, strict=True)] for row in both]
        sns.heatmap(
            grids["cosine"], ax=axis, vmin=0, vmax=1, cmap="viridis", annot=np.array(texts), fmt="",
            annot_kws={"size": 6}, cbar=False, linewidths=0.5,
        )  # fmt: skip
        axis.set(xlabel="layer", ylabel="", title=f"cosine to {reference(table, one)}")
        axis.tick_params(length=0, rotation=0)
    return figure, tidy


def _text(measured: float, expected: float) -> str:
    """Return the text of a cell: the measured value, and the expected one in brackets."""
    if np.isnan(measured):
        return ""
    return f"{measured:.3f}" + ("" if np.isnan(expected) else f"\n({expected:.3f})")
