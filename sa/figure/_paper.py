"""What all figures share: panels, colours, labels, legends."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sa import ranking

PANEL = 3.35  # inches: a column of a two-column paper
STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.4, "axes.linewidth": 0.7,
    "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip
AXES = {"sample": "rows seen", "flops": "FLOPs of the forward-equivalents"}
"""What an axis of trainings is called where its column's name says too little."""

ORDER = ("ste", "cdg", "nes", "random")  # the first colours, the same in every figure


def panels(count: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Panels beside each other, in rows of three where there are more than four.

    None of them is known to pyplot, so nothing global is left.
    """
    columns = count if count <= 4 else 3
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.2, PANEL * columns), 3.1 if rows == 1 else 2.5 * rows), dpi=200)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def need(table: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError where a column is missing, or no run has all of them."""
    missing = [c for c in columns if c not in table]
    if missing:
        found = dict.fromkeys(c.partition("/")[0] for c in missing if "/" in c)
        names = ",".join(k for k in found if k not in ("train", "test"))
        analysed = f"were analysed (analysis=[{names}])" if names else "have them"
        raise ValueError(
            f"the table has no column {', '.join(missing)}; `python -m sa.sweep collect` makes "
            f"them where the runs {analysed}"
        )
    if table[list(columns)].dropna().empty:
        raise ValueError("no run has a result to draw")


def numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; nan where a run failed, or everywhere where there is no such column."""
    given = table[column] if column in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(given, errors="coerce").astype(float)


def steps(table: pd.DataFrame) -> Callable[[pd.Series], pd.DataFrame]:
    """What gives the rows over steps of a run, a row of the table.

    Raises ValueError where the table does not come with the rows of its runs.
    """
    rows = table.attrs.get("rows")
    if rows is None:
        raise ValueError("the table comes without the rows of its runs: `sa.sweep report` draws it")
    return lambda run: pd.DataFrame(rows(run["run_id"]))


def history(table: pd.DataFrame, settings: Sequence[str], *results: str) -> pd.DataFrame:
    """The rows over steps of all runs, with these settings of theirs and these results, none nan.

    Raises ValueError as `steps` does.
    """
    rows, found = steps(table), []
    for _, run in table.iterrows():
        mine = rows(run).reindex(columns=["step", *results]).dropna()
        found.append(mine.assign(**{k: run[k] for k in settings}))
    return pd.concat(found, ignore_index=True)


def references(table: pd.DataFrame) -> dict[str, float]:
    """The middle, by id, of what the study expects, of expectations that have two ends."""
    found = table.attrs.get("expectations") or []
    return {e["id"]: sum(e["value"]) / 2 for e in found if e["predicate"] == "between"}


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a ``label`` a run: the estimator, and the settings that vary within it."""
    table = _activated(table)
    if "label" in table or "estimator._target_" not in table:
        return table.assign(label=table.get("label", "run"), seed=table.get("seed", 0))
    names = table["estimator._target_"].str.split(".").str[-1].str.replace("Random", "random")
    labels = names.copy()
    for column in sorted(str(c) for c in table if str(c).startswith("estimator.")):
        key = column.removeprefix("estimator.")
        shown = {"samples": "N=", "sigma": "σ=", "epsilon": "ε=", "surrogate": ""}.get(
            key, f"{key}="
        )
        for _, rows in table.groupby(names):
            values = rows[column].dropna().astype(str).unique()
            if key == "_target_" or (len(values) < 2 and key != "surrogate"):
                continue
            told = table.loc[rows.index, column].map(lambda v, shown=shown: _setting(shown, v))
            labels.loc[rows.index] += told
    return table.assign(label=labels, seed=table.get("seed", 0))


def faceted(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with a ``facet`` a run, and the facets in order: a panel each.

    The layer that moves where that varies, and the weights' quantizer where it does; else the dim.
    """
    if "moving" not in table or table["moving"].nunique() < 2:
        told = table["dim"].map("dim {:g}".format)
        return table.assign(facet=told), [f"dim {d:g}" for d in sorted(table["dim"].unique())]
    told = "layer " + table["moving"].astype(str).str.strip("[]").str.replace('"', "")
    weights = "quantizer.weight._target_"
    if weights in table and table[weights].nunique() > 1:
        kinds = table[weights].str.split(".").str[-1].replace("Identity", "full-precision")
        told = told + ", " + kinds + " weights"
    return table.assign(facet=told), list(told.unique())


def _activated(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an ``activation`` a run, by the name the field gives it."""
    column = "quantizer.activation._target_"
    if "activation" in table or column not in table:
        return table.assign(activation=table.get("activation", "network"))
    names = table[column].str.split(".").str[-1].str.lower().replace("bernoulli", "sign")
    levels = numbers(table, "quantizer.activation.levels")
    known = {3: "ternary", 4: "2-bit", 8: "3-bit", 16: "4-bit"}
    told = levels.map(lambda n: known.get(n, f"{n:g} levels"))
    return table.assign(activation=names.where(levels.isna(), told))


def told(table: pd.DataFrame) -> pd.Series:
    """What each run varies beside its seed, as the page of a sweep says it; else its label."""
    words: pd.Series = table["words"] if "words" in table else table["label"]
    return words.replace("", "all")


def paired(table: pd.DataFrame) -> pd.Series:
    """What each run varies, told of the two trainings it looks at: ``STE - CDG, one start``.

    What else the sweep varies follows, where runs of one name differ in it. As `told` where their
    estimators are not told.
    """
    if "ends" not in table:
        return told(table)
    words = []
    for ends, seed in zip(map(json.loads, table["ends"].fillna("[]")), table["seed"], strict=True):
        if not ends or not all(isinstance(e, dict) and "estimator" in e for e in ends):
            return told(table)
        names = [e["estimator"]["_target_"].rsplit(".", 1)[-1] for e in ends]
        own = [e.get("seed", seed) if e.get("init_seed") is None else e["init_seed"] for e in ends]
        words.append(f"{' - '.join(names)}, {'one start' if own[0] == own[1] else 'two starts'}")
    pairs = pd.Series(words, table.index)
    more = (
        told(table).str.replace(r"\b(estimator|init_seed|seed)=\S+ ?", "", regex=True).str.strip()
    )
    alike = more.groupby(pairs).transform("nunique") < 2
    return pairs.where(alike, pairs.str.cat(more, sep=", "))


def order(tidy: pd.DataFrame, x: str, y: str) -> str:
    """Kendall's tau of two columns within each seed, in words: the mean, the least and the most."""
    taus = pd.Series([ranking.kendall(s[x], s[y]) for _, s in tidy.groupby("seed")]).dropna()
    if taus.empty:
        return "no seed has three trainings to order"
    return f"τ = {taus.mean():.2f} [{taus.min():.2f}, {taus.max():.2f}] of {len(taus)} seeds"


def activations(table: pd.DataFrame) -> list[str]:
    """The activations of a table, coarse ones first."""
    order = ["sign", "ternary", "2-bit", "3-bit", "4-bit"]
    there = set(table["activation"])
    return [a for a in order if a in there] + sorted(there - set(order))


def _setting(shown: str, value: Any) -> str:
    """A setting as a label tells it: nothing where it is off, its name alone where it is on."""
    if pd.isna(value) or str(value) in ("False", "none", "[]"):
        return ""
    if str(value) == "True":  # 1 is a number
        return f" {shown.rstrip('=')}"
    if isinstance(value, str) and value.startswith("["):  # a list: how many
        several = value.count(",") + 1
        return f" {value.strip('[]').strip(chr(34))}" if several == 1 else f" {shown}{several}"
    return f" {shown}{value:g}" if isinstance(value, float) else f" {shown}{value}"


def palette(labels: pd.Series) -> dict[str, Any]:
    """Label -> colour: colour-blind safe, the familiar estimators always in their own."""
    tones = sns.color_palette("colorblind", 10)
    fixed = dict(zip(ORDER, (tones[0], tones[3], tones[2], (0.45, 0.45, 0.45)), strict=True))
    spare = [tones[i] for i in (1, 4, 5, 6, 8, 9)]
    out: dict[str, Any] = {}
    for label in sorted(set(labels), key=lambda x: (_rank(x), x)):
        own = fixed.pop(label.split()[0].lower(), None)
        out[label] = own or spare[len(out) % len(spare)]
    return out


def _rank(label: str) -> int:
    first = label.split()[0].lower()
    return ORDER.index(first) if first in ORDER else len(ORDER)


def shade_null(axis: Axes, x: Any, height: Any) -> None:
    """Shade what the best of a random direction reaches."""
    axis.fill_between(
        x,
        0,
        np.clip(height, 0, None),
        color="0.87",
        lw=0,
        zorder=0,
        label="null: random directions",
    )


def widths(axis: Axes, dims: pd.Series) -> None:
    """A logarithmic axis of widths."""
    there = sorted(dims.unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(there, [f"{d:g}" for d in there])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("dim (width of the network)")


def columns(figure: Figure, labels: Sequence[str], most: int) -> int:
    """How many columns of a legend with these labels fit below a figure, 1 to ``most``."""
    inches = 0.5 + 0.052 * max((len(x) for x in labels), default=0)
    return max(1, min(most, int(figure.get_figwidth() / inches)))


def legend(figure: Figure, axis: Axes, other: str | None, line: str = "--") -> None:
    """One legend below all panels; other: what lines of this style are."""
    if other:
        axis.plot([], [], line, color="0.3", label=other)
    handles, labels = axis.get_legend_handles_labels()
    columns = 6 if figure.get_figwidth() > 6 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
