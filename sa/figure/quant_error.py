"""Quantization error of each tensor: SQNR, the share of clipping, the bits its channels need."""

import re
from typing import Any

import pandas as pd
import seaborn as sns

from sa.figure._axis import legend
from sa.figure._base import PANEL, Canvas, Sheet, hues, kind, need

KEY = re.compile(r"quant_error/(.+)/sqnr")


def _quantizers(table: pd.DataFrame) -> pd.Series:
    return pd.Series([_quantizer(run) for _, run in table.iterrows()], table.index)


@kind(_quantizers, spread="bars: means over seeds; whiskers: least to most")
def quant_error(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Draw SQNR, the share of clipping and the bits needed, by tensor and quantizer.

    Bits needed are means over runs and channels.
    """
    need(table, "quant_error/worst")
    columns = {m.group(1): str(c) for c in table if (m := KEY.fullmatch(str(c)))}
    tidy = pd.DataFrame(
        {
            "tensor": tensor, "quantizer": _quantizer(row), "seed": row.get("seed"),
            "run_id": row["run_id"],
            "sqnr": row[column], "clipping": row[f"quant_error/{tensor}/clipping"],
            "bits": row[f"quant_error/{tensor}/bits"],
            "levels": row[f"quant_error/{tensor}/levels"],
            "needed": list(row[f"quant_error/{tensor}/needed"]),
        }
        for _, row in table.iterrows()
        for tensor, column in columns.items()
        if pd.notna(row[column])
    )  # fmt: skip
    tensors = [t for t in columns if t in set(tidy["tensor"])]
    height = 1.3 + 0.22 * len(tensors) * tidy["quantizer"].nunique() ** 0.5
    figure = sheet(2.6 * PANEL, height)
    axes = figure.subplots(1, 3, sharey=True)
    style: dict[str, Any] = {"y": "tensor", "hue": "quantizer", "order": tensors, "orient": "h"}
    style |= {"palette": hues(list(dict.fromkeys(tidy["quantizer"])))}
    shown = {
        "sqnr": "SQNR (dB)",
        "clipping": "share of clipping in the error",
        "needed": "bits that a channel needs",
    }
    for axis, (column, label) in zip(axes, shown.items(), strict=True):
        long = tidy.explode("needed") if column == "needed" else tidy
        long = long.astype({column: float}).reset_index(drop=True)
        sns.barplot(long, x=column, ax=axis, errorbar=("pi", 100), err_kws={"lw": 0.8}, **style)
        axis.set(xlabel=label, ylabel="")
    axes[1].set_xlim(0, 1)
    handles, names = axes[0].get_legend_handles_labels()
    for handle, name in zip(handles, names, strict=True):
        handle.set_label(name)
    for axis in axes:
        if axis.get_legend():
            axis.get_legend().remove()
    legend(figure, handles=handles)
    return figure, tidy


def _quantizer(run: pd.Series) -> str:
    """Return the quantizers of weights and activations with their bits: W uniform 4, A sign."""
    parts = []
    for letter, slot in (("W", "weight"), ("A", "activation")):
        name = str(run.get(f"quantizer.{slot}._target_", "")).rpartition(".")[2].lower()
        bits = run.get(f"quantizer.{slot}.bits")
        if name not in ("", "identity", "nan"):
            parts.append(f"{letter} {name}" + (f" {bits:g}" if pd.notna(bits) else ""))
    return ", ".join(parts) or "quantized"
