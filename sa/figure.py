"""Tables to figures: one function a figure kind, each from a DataFrame and with its tidy table."""

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sa import ranking

PANEL = 3.35  # inches: a column of a two-column paper
STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.4, "axes.linewidth": 0.7,
    "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip
ORDER = ("ste", "cdg", "nes", "random")  # the first colours, the same in every figure


def lr_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Relative loss decrease against step length: a panel a dim, a line an estimator.

    Mean over seeds with their range as a band; held out dashed; the null's best shaded.
    """
    _need(table, "dim", "value", "descent/lr", "descent/decrease")
    names = ["decrease", "decrease_heldout"]
    tidy = pd.concat(
        [
            pd.DataFrame(
                {"lr": row["descent/lr"]}
                | {k: np.asarray(row[f"descent/{k}"]) / row["value"] for k in names if _has(row, k)}
            ).assign(
                dim=row["dim"],
                label=row["label"],
                seed=row.get("seed"),
                null_best=row.get("descent/null_best", np.nan) / row["value"],
            )
            for _, row in table[table["descent/lr"].notna()].iterrows()
        ]
    )
    dims, colours = sorted(tidy["dim"].unique().tolist()), _colours(tidy["label"])
    figure, axes = _panels(len(dims), sharey=True)
    top = tidy["decrease"].max()
    for axis, dim in zip(axes, dims, strict=True):
        here = tidy[tidy["dim"] == dim]
        grid = _common(here)
        for label, colour in colours.items():
            mine = [g for _, g in here[here["label"] == label].groupby("seed", dropna=False)]
            if not mine:
                continue
            on = _stack(mine, grid, "decrease")
            axis.plot(grid, on.mean(0), color=colour, label=label)
            axis.fill_between(grid, on.min(0), on.max(0), color=colour, alpha=0.15, lw=0)
            if "decrease_heldout" in here:
                axis.plot(grid, _stack(mine, grid, "decrease_heldout").mean(0), "--", color=colour)
        if "null_best" in here:
            _null(axis, [grid[0], grid[-1]], [here["null_best"].mean()] * 2)
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(xscale="log", ylim=(-0.5 * top, 1.1 * top), title=f"dim {dim}")
        axis.set_xlabel(r"step length $\eta$ (direction of unit norm)")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    axes[0].set_ylabel("loss decrease / loss")
    _legend(figure, axes[0], "held out" if "decrease_heldout" in tidy else None)
    return figure, tidy


def best_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best relative decrease against dim: mean and range over seeds, held out dashed, the null."""
    _need(table, "dim", "value", "descent/best")
    tidy = table[["dim", "seed", "label"]].assign(
        best=_numbers(table, "descent/best") / _numbers(table, "value"),
        best_heldout=_numbers(table, "descent/best_heldout") / _numbers(table, "value"),
        null_best=_numbers(table, "descent/null_best") / _numbers(table, "value"),
    )
    figure, (axis,) = _panels(1)
    for at, (label, colour) in enumerate(_colours(tidy["label"]).items()):
        mine = tidy[tidy["label"] == label].groupby("dim")
        dims = np.array(sorted(float(str(d)) for d in mine.groups)) * 2 ** (
            0.04 * (at - 1.5)
        )  # side by side
        for column, line in (("best", "-"), ("best_heldout", "--")):
            got = mine[column].agg(["mean", "min", "max"])
            if got["mean"].isna().all():
                continue
            axis.plot(dims, got["mean"], line, color=colour, label=label if line == "-" else None)
            if line == "-":
                reach = [got["mean"] - got["min"], got["max"] - got["mean"]]
                axis.errorbar(dims, got["mean"], reach, fmt="o", ms=3, color=colour, lw=0.8)
    null = tidy.groupby("dim")["null_best"].mean()
    _null(axis, null.index, null)
    axis.axhline(0, color="0.4", lw=0.6)
    _dims(axis, tidy["dim"])
    axis.set_ylabel("best loss decrease / loss")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    _legend(figure, axis, "held out")
    return figure, tidy


def alignment(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Cosine to the reference gradient against dim, the law's, and what two batches agree to."""
    _need(table, "dim", "alignment/cosine")
    tidy = table[["dim", "seed", "label"]].assign(
        cosine=_numbers(table, "alignment/cosine"),
        expected=_numbers(table, "cosine_expected"),
        ceiling=_numbers(table, "alignment/ceiling"),
    )
    figure, (axis,) = _panels(1)
    for label, colour in _colours(tidy["label"]).items():
        mine = tidy[tidy["label"] == label].groupby("dim")
        got = mine["cosine"].agg(["mean", "min", "max"])
        reach = [got["mean"] - got["min"], got["max"] - got["mean"]]
        axis.errorbar(got.index, got["mean"], reach, fmt="o-", ms=3, color=colour, label=label)
        expected = mine["expected"].mean()
        if expected.notna().any():
            axis.plot(expected.index, expected, ":", color=colour)
    ceiling = tidy.groupby("dim")["ceiling"].mean()
    axis.plot(ceiling.index, ceiling, color="0.6", lw=0.9, label="CDG of two batches")
    _dims(axis, tidy["dim"])
    axis.set(ylabel="cosine to the reference gradient", ylim=(min(-0.05, axis.get_ylim()[0]), 1.05))
    _legend(figure, axis, "law on a linear loss", ":")
    return figure, tidy


def calibration(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best decrease against eps and sigma, held out dashed, and the cosines between the two kinds.

    A row a dim, means over seeds with their range as a band.
    """
    _need(
        table, "dim", "value", "smoothing/cosine", "smoothing/box/best", "smoothing/gaussian/best"
    )
    table = table[table["smoothing/cosine"].notna()]
    kinds = {"box": ("epsilon", "box, half-width eps"), "gaussian": ("sigma", "gaussian, sigma")}
    tidy = pd.concat(
        pd.DataFrame(
            {"kind": kind, "scale": row[f"smoothing/{kind}/{scale}"], "dim": row["dim"]}
            | {"seed": row.get("seed")}
            | {"best": np.asarray(row[f"smoothing/{kind}/best"]) / row["value"]}
            | {"heldout": np.asarray(row.get(f"smoothing/{kind}/heldout", np.nan)) / row["value"]}
        )
        for _, row in table.iterrows()
        for kind, (scale, _) in kinds.items()
    )
    dims = sorted(table["dim"].unique().tolist())
    figure = Figure(figsize=(2.1 * PANEL, 0.8 * PANEL * len(dims)), dpi=200)
    axes = figure.subplots(len(dims), 2, squeeze=False, width_ratios=[1.5, 1])
    for (left, right), dim in zip(axes, dims, strict=True):
        for colour, (kind, (_, name)) in zip(
            sns.color_palette("colorblind", 2), kinds.items(), strict=True
        ):
            mine = tidy[(tidy["dim"] == dim) & (tidy["kind"] == kind)].groupby("scale")
            got = mine["best"].agg(["mean", "min", "max"])
            left.plot(got.index, got["mean"], "o-", ms=3, color=colour, label=name)
            left.fill_between(got.index, got["min"], got["max"], color=colour, alpha=0.15, lw=0)
            left.plot(got.index, mine["heldout"].mean(), "--", color=colour)
        left.axhline(0, color="0.4", lw=0.6)
        left.set(xscale="log", title=f"dim {dim}", xlabel="eps, sigma")
        left.set_ylabel("best loss decrease / loss")
        left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        here = table[table["dim"] == dim]
        row = here.iloc[0]
        sizes = len(row["smoothing/gaussian/sigma"]), len(row["smoothing/box/epsilon"])
        cosines = np.mean([np.reshape(c, sizes) for c in here["smoothing/cosine"]], 0)
        sns.heatmap(
            cosines, ax=right, vmin=0, vmax=1, cmap="viridis", annot=max(sizes) <= 5,
            xticklabels=[f"{e:g}" for e in row["smoothing/box/epsilon"]],
            yticklabels=[f"{s:g}" for s in row["smoothing/gaussian/sigma"]],
            cbar_kws={"label": "cosine"},
        )  # fmt: skip
        right.set(xlabel="eps", ylabel="sigma")
        right.invert_yaxis()
    _legend(figure, axes[0][0], "held out")
    return figure, tidy


def variants(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Every estimator by every activation: what one step says, and a short training.

    Means over seeds, estimators in the order of their mean final loss; the tidy table is the
    ranking.
    """
    _need(table, ranking.TRUTH)
    tidy = ranking.means(table)
    shown = {
        "alignment/cosine": ("cosine to CDG", "viridis", 0.0, 1.0),
        "efficiency/at_evals/heldout": ("held-out decrease,\nequal evals", "viridis", 0.0, None),
        ranking.TRUTH: ("loss after training\n/ loss before", "viridis_r", None, 1.0),
    }
    shown = {k: v for k, v in shown.items() if k in tidy}
    order = tidy.groupby("label")[ranking.TRUTH].mean().sort_values().index
    columns = _activations(tidy)
    height = 1.2 + 0.17 * len(order)
    figure = Figure(figsize=(2.6 + 0.62 * len(columns) * len(shown), height), dpi=200)
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, (column, (title, colours, low, high)) in zip(axes, shown.items(), strict=True):
        grid = tidy.pivot(index="label", columns="activation", values=column)
        sns.heatmap(
            grid.reindex(index=order, columns=columns), ax=axis, cmap=colours, vmin=low, vmax=high,
            annot=True, fmt=".2f", annot_kws={"size": 5.5}, cbar=False, linewidths=0.3,
        )  # fmt: skip
        axis.set(xlabel="", ylabel="", title=title)
        axis.tick_params(length=0, labelsize=6)
    return figure, tidy


def prediction(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Final loss of a short training against each figure of one step, with Kendall's tau."""
    _need(table, ranking.TRUTH)
    rows = ranking.means(table)
    tidy = ranking.judged(rows)
    kept = [(c, n) for c, n in ranking.ONE_STEP.items() if c in rows and rows[c].notna().any()]
    figure = Figure(figsize=(0.62 * PANEL * max(2, len(kept)), 0.9 * PANEL), dpi=200)
    axes = figure.subplots(1, max(1, len(kept)), squeeze=False, sharey=True)[0]
    colours = dict(zip(_activations(rows), sns.color_palette("colorblind"), strict=False))
    for axis, (column, name) in zip(axes, kept, strict=False):
        for activation, colour in colours.items():
            mine = rows[rows["activation"] == activation]
            tau = f"  τ = {ranking.kendall(mine[column], -mine[ranking.TRUTH]):.2f}"
            axis.plot(mine[column], mine[ranking.TRUTH], "o", ms=3, color=colour,
                      alpha=0.8, label=f"{activation}{tau}")  # fmt: skip
        axis.set_xlabel(name)
        axis.legend(frameon=False, fontsize=6, handletextpad=0.1)
    axes[0].set_ylabel("loss after training / loss before")
    return figure, tidy


def _curves(rows: pd.DataFrame, title: str) -> tuple[Figure, pd.DataFrame]:
    if len(rows) < 2:
        raise ValueError("one row: a probe has no curves")
    kept = [c for c in ("loss", *_splits("loss"), *_splits("accuracy")) if c in rows]
    tidy = rows[["step", *kept]]
    ends = [e for e in ("loss", "accuracy") if any(f"{s}/{e}" in rows for s in ("train", "test"))]
    figure, axes = _panels(max(1, len(ends)))
    colours = dict(zip(("train", "test"), sns.color_palette("colorblind"), strict=False))
    if "loss" in rows:
        axes[0].plot(rows["step"], rows["loss"], color="0.85", lw=0.6, label="minibatch", zorder=0)
    for axis, end in zip(axes, ends or ["loss"], strict=True):
        for split, colour in colours.items():
            if f"{split}/{end}" in rows:
                seen = rows[["step", f"{split}/{end}"]].dropna()
                axis.plot(seen["step"], seen.iloc[:, 1], color=colour, label=split)
        axis.set(xlabel="step", ylabel=end)
    drawn = np.concatenate([line.get_ydata() for line in axes[0].lines])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() > 10 * drawn.min():
        axes[0].set_yscale("log")
    axes[0].set_ylabel("loss (mean over rows)")
    axes[0].legend(frameon=False)
    if "test/accuracy" in rows and len(axes) > 1:
        last = rows["test/accuracy"].dropna().iloc[-1]
        axes[1].axhline(last, color=colours["test"], lw=0.6, ls=":")
        told = f"test {100 * last:.1f} %"
        axes[1].annotate(told, (0.98, last), xycoords=("axes fraction", "data"), ha="right",
                         va="top", xytext=(0, -4), textcoords="offset points")  # fmt: skip
        axes[1].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    if title:
        figure.suptitle(title, fontsize=8.5)
    return figure, tidy


KINDS: dict[str, Callable[[pd.DataFrame], tuple[Figure, pd.DataFrame]]] = {
    f.__name__: f
    for f in (lr_decrease, best_decrease, alignment, calibration, variants, prediction)
}


def draw(kind: str, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind from a table of runs: <folder>/<kind>.png, .svg and .csv, the tidy table.

    Raises ValueError for an unknown kind (naming those there are) or a missing column.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no figure '{kind}'; there are: {', '.join(KINDS)}")
    with _style():
        figure, tidy = KINDS[kind](_labelled(table))
        told = textwrap.wrap(_targets(_labelled(table)), int(16 * figure.get_figwidth()))
        if told:
            figure.suptitle("\n".join(told), fontsize=6.5, color="0.35")
        return _save(figure, tidy, folder / kind)


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Loss and accuracy of one training run over its steps; ValueError where there is one row."""
    with _style():
        return _save(*_curves(rows, title), folder / "curves")


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(sns.axes_style("ticks") | STYLE):
        yield


def _panels(count: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Panels beside each other, none of them known to pyplot, so nothing global is left."""
    figure = Figure(figsize=(max(4.2, PANEL * count), 3.1), dpi=200)
    return figure, list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def _save(figure: Figure, tidy: pd.DataFrame, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    for end, write in (
        ("png", lambda p: figure.savefig(p, format="png", dpi=200)),
        ("svg", lambda p: figure.savefig(p, format="svg")),
        ("csv", lambda p: tidy.to_csv(p, index=False)),
    ):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        try:
            write(temp)
            made.append(temp.replace(path.with_suffix(f".{end}")))
        finally:
            temp.unlink(missing_ok=True)
    return made


def _need(table: pd.DataFrame, *columns: str) -> None:
    missing = [c for c in columns if c not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}; `python -m sa.sweep collect` makes "
            "them where the runs were analysed (analysis=[alignment,descent])"
        )
    if table[list(columns)].dropna().empty:
        raise ValueError("no run has a result to draw")


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; nan where a run failed, or everywhere where there is no such column."""
    given = table[column] if column in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(given, errors="coerce").astype(float)


def _has(row: Any, name: str) -> bool:
    value = row.get(f"descent/{name}")
    return value is not None and np.size(value) == np.size(row["descent/lr"])


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
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


def _activated(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an ``activation`` a run, by the name the field gives it."""
    column = "quantizer.activation._target_"
    if "activation" in table or column not in table:
        return table.assign(activation=table.get("activation", "network"))
    names = table[column].str.split(".").str[-1].str.lower().replace("bernoulli", "sign")
    levels = _numbers(table, "quantizer.activation.levels")
    known = {3: "ternary", 4: "2-bit", 8: "3-bit", 16: "4-bit"}
    told = levels.map(lambda n: known.get(n, f"{n:g} levels"))
    return table.assign(activation=names.where(levels.isna(), told))


def _activations(table: pd.DataFrame) -> list[str]:
    """The activations of a table, coarse ones first."""
    order = ["sign", "ternary", "2-bit", "3-bit", "4-bit"]
    there = set(table["activation"])
    return [a for a in order if a in there] + sorted(there - set(order))


def _setting(shown: str, value: Any) -> str:
    """A setting as a label tells it: nothing where it is off, its name alone where it is on."""
    if pd.isna(value) or value in (False, "False", "none", "[]"):
        return ""
    if value in (True, "True"):
        return f" {shown.rstrip('=')}"
    if isinstance(value, str) and value.startswith("["):  # a list: how many
        several = value.count(",") + 1
        return f" {value.strip('[]').strip(chr(34))}" if several == 1 else f" {shown}{several}"
    return f" {shown}{value:g}" if isinstance(value, float) else f" {shown}{value}"


def _targets(table: pd.DataFrame) -> str:
    """Says so where the compared estimators estimate different things."""
    if "target" not in table or table["target"].nunique() < 2:
        return ""
    pairs = table.groupby("target")["label"].agg(lambda s: ", ".join(sorted(set(s))))
    if table["label"].nunique() > 12:
        told = ", ".join(f"{who.count(', ') + 1} estimators {what}" for what, who in pairs.items())
    else:
        told = "; ".join(f"{who}: {what}" for what, who in pairs.items())
    return f"targets differ: {told}"


def _colours(labels: pd.Series) -> dict[str, Any]:
    """Label -> colour: colour-blind safe, the familiar estimators always in their own."""
    palette = sns.color_palette("colorblind", 10)
    fixed = dict(zip(ORDER, (palette[0], palette[3], palette[2], (0.45, 0.45, 0.45)), strict=True))
    spare = [palette[i] for i in (1, 4, 5, 6, 8, 9)]
    out: dict[str, Any] = {}
    for label in sorted(set(labels), key=lambda x: (_rank(x), x)):
        own = fixed.pop(label.split()[0].lower(), None)
        out[label] = own or spare[len(out) % len(spare)]
    return out


def _rank(label: str) -> int:
    first = label.split()[0].lower()
    return ORDER.index(first) if first in ORDER else len(ORDER)


def _common(rows: pd.DataFrame) -> np.ndarray:
    """One log grid over the step lengths of all lines, which differ by refinement."""
    return np.geomspace(rows["lr"].min(), rows["lr"].max(), 120)


def _stack(groups: Sequence[pd.DataFrame], grid: np.ndarray, column: str) -> np.ndarray:
    """Lines (seeds, grid), linear in log step length; beyond a line's own range nan-free ends."""
    return np.stack([np.interp(np.log(grid), np.log(g["lr"]), g[column]) for g in groups])


def _null(axis: Axes, x: Any, height: Any) -> None:
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


def _dims(axis: Axes, dims: pd.Series) -> None:
    there = sorted(dims.unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(there, [f"{d:g}" for d in there])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("dim (width of the network)")


def _legend(figure: Figure, axis: Axes, other: str | None, line: str = "--") -> None:
    if other:
        axis.plot([], [], line, color="0.3", label=other)
    handles, labels = axis.get_legend_handles_labels()
    columns = 6 if figure.get_figwidth() > 6 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _splits(end: str) -> tuple[str, str]:
    return f"train/{end}", f"test/{end}"
