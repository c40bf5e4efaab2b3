"""Loss and input sensitivity against batch size, in every reading."""

import pandas as pd
from matplotlib.ticker import FuncFormatter

from sa.figure._axis import legend, other
from sa.figure._paper import MEANS, Canvas, Sheet, hues, kind, need, numbers, panels

READINGS = ("logits", "probabilities")


def _budget(table: pd.DataFrame) -> pd.Series:
    """Whether trainings of several batch sizes took as many steps; else it follows the rows."""
    steps = numbers(table, "steps")
    shared = table["batch_size"].groupby(steps).nunique() > 1
    told = [f"equal steps ({s:g})" if shared.get(s, False) else "equal epochs" for s in steps]
    return pd.Series(told, table.index)


@kind("batch_size", _budget, told=MEANS)
def sensitivity(table: pd.DataFrame, sheet: Sheet) -> tuple[Canvas, pd.DataFrame]:
    """Test and training loss, and mean sensitivity of logits and of probabilities, by batch size.

    One line a budget (equal epochs, equal steps); test rows, training rows dashed; means over seeds
    with their range as a band.
    """
    columns = [f"input_sensitivity/{s}/{r}/mean" for s in ("test", "train") for r in READINGS]
    need(table, "batch_size", "steps", *columns)
    table = table[numbers(table, columns[0]).notna()]
    tidy = table[["batch_size", "seed", "run_id"]].assign(budget=_budget(table))
    for split in ("test", "train"):
        tidy[f"{split}/loss"] = numbers(table, f"{split}/loss")
        for reading in READINGS:
            key = f"input_sensitivity/{split}/{reading}/mean"
            tidy[f"{split}/{reading}"] = numbers(table, key)
    figure, axes = panels(sheet, 3)
    colours = hues(sorted(set(tidy["budget"])))
    for budget, mine in tidy.groupby("budget"):
        colour = colours[budget]
        for axis, reading in zip(axes, ("loss", *READINGS), strict=True):
            for split, style in (("test", "-"), ("train", "--")):
                got = mine.groupby("batch_size")[f"{split}/{reading}"].agg(["mean", "min", "max"])
                label = budget if split == "test" else None
                axis.plot(
                    got.index, got["mean"], style, marker="o", ms=3, color=colour, label=label
                )
                axis.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
    sizes = sorted(tidy["batch_size"].unique())
    for axis, name in zip(axes, ("loss", "logits", "probabilities"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{s:g}" for s in sizes])
        axis.set_xlabel("rows a step")
        told = "mean loss (nats)" if name == "loss" else f"|d {name} / d input|, mean over rows"
        axis.set(yscale="log", ylabel=told)
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "1235" else ""))
    other(axes[0], "--", "training rows")
    legend(figure, axes[0])
    return figure, tidy
