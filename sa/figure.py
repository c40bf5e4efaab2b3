"""Tables to figures: one function a figure kind, each from a DataFrame and with its tidy table."""

import inspect
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

Kind = Callable[[pd.DataFrame], tuple[Figure, pd.DataFrame]]
Looks = dict[str, dict[str, Any]]  # label -> its colour and marker

WIDTH, HEIGHT = 3.35, 2.6  # inches a panel: 8.5 cm, a column of a two-column paper
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.7, "lines.linewidth": 1.3,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.minor.width": 0.5,
    "svg.fonttype": "none", "svg.hashsalt": "sa", "figure.constrained_layout.use": True,
}  # fmt: skip
FAMILIAR = {"ste": 0, "cdg": 3, "nes": 2}  # estimator -> colour, the same in every figure
NULL: dict[str, Any] = {"color": "0.88", "lw": 0, "zorder": 0}


# Kinds: every public function of a `table` and nothing else


def lr_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Loss decrease over the loss against step length: a panel a dim, a line an estimator.

    Mean over seeds where all were evaluated, their range as a band, its best marked; held out
    dashed (over the same loss, the batch's). The null, random directions: its mean as a thin line,
    shaded up to the mean of its best.
    """
    runs, looks = _runs(table, "dim", "value", "descent/lr", "descent/decrease")
    tidy = pd.concat([_line(run) for _, run in runs.iterrows()], ignore_index=True)
    dims = sorted(tidy["dim"].unique())
    figure, axes = _panels(len(dims), sharey=True)
    shown = ["decrease", "decrease_heldout", "null_best"]
    top = max(tidy[shown].max().max(), 1e-3)  # far below zero lie only the steps too long
    for axis, dim in zip(axes, dims, strict=True):
        here = tidy[tidy["dim"] == dim]
        axis.axhspan(0, max(here["null_best"].mean(), 0), **NULL)
        axis.plot(*_mean(here, "null"), color="0.6", lw=0.8)
        for label, look in looks.items():
            mine = here[here["label"] == label]
            grid, drops = _across(mine, "decrease")
            if not len(drops):
                continue
            mean, colour = drops.mean(0), look["color"]
            axis.fill_between(grid, drops.min(0), drops.max(0), color=colour, alpha=0.13, lw=0)
            axis.plot(*_mean(mine, "decrease_heldout"), "--", color=colour, lw=1)
            axis.plot(grid, mean, color=colour)
            best = np.nanargmax(mean) if np.isfinite(mean).any() else 0
            axis.plot(grid[best], mean[best], ms=5, mec="white", mew=0.7, zorder=4, **look)
        axis.axhline(0, color="0.4", lw=0.6)
        axis.set(xscale="log", ylim=(-0.4 * top, 1.1 * top), title=f"dim {dim:g}")
        axis.set_xlabel(r"step length $\eta$ along the unit direction")
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel("loss decrease (% of the loss)")
    held = [_dashed("held out")] * bool(tidy["decrease_heldout"].notna().any())
    _legend(figure, tidy, looks, [*held, *_null(tidy)])
    _note(figure, table, runs, "mean (marker: its best) and range (band)")
    return figure, tidy


def best_decrease(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Best loss decrease over the loss against dim, on the batch and held out, with the null.

    Mean over seeds, their range as bars, each a faint dot. The held-out one is taken at the batch's
    best step length and is over the batch's loss.
    """
    runs, looks = _runs(table, "dim", "value", "descent/best")
    value = _numbers(runs, "value")
    tidy = runs[["dim", "label", "seed"]].assign(
        **{k: _numbers(runs, f"descent/{k}") / value for k in ("best", "best_heldout", "null_best")}
    )
    figure, (axis,) = _panels(1)
    null = tidy.groupby("dim")["null_best"].mean().clip(lower=0)
    ends = [null.index[0] / 2, *null.index, null.index[-1] * 2]  # a level, also beside one dim
    axis.fill_between(ends, np.r_[null.iloc[0], null, null.iloc[-1]], **NULL)
    axis.axhline(0, color="0.4", lw=0.6)
    for label, look, shift in _beside(tidy, looks):
        mine = tidy[tidy["label"] == label]
        held = mine.groupby("dim")["best_heldout"].mean()
        axis.plot(held.index * shift, held, "--", ms=3.5, mfc="white", lw=1, zorder=2, **look)
        _means(axis, mine, "best", look, shift)
    _dims(axis, tidy)
    axis.set_ylabel("best loss decrease (% of the loss)")
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    held_out = [_dashed("held out, mean")] * bool(tidy["best_heldout"].notna().any())
    _legend(figure, tidy, looks, [*held_out, *_null(tidy)])
    _note(figure, table, runs, "mean, range (bar) and each (dot)")
    return figure, tidy


def alignment(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Cosine to the reference gradient against dim: mean over seeds, their range, each a faint dot.

    Dotted, what the estimator's own law expects of a linear loss; in grey the ceiling, the cosine
    between the references of two batches, above which a cosine means nothing.
    """
    runs, looks = _runs(table, "dim", "alignment/cosine")
    tidy = runs[["dim", "label", "seed"]].assign(
        cosine=_numbers(runs, "alignment/cosine"),
        cosine_expected=_numbers(runs, "cosine_expected"),
        ceiling=_numbers(runs, "alignment/ceiling"),
    )
    figure, (axis,) = _panels(1)
    axis.axhline(0, color="0.4", lw=0.6)
    ceiling = tidy.groupby("dim")["ceiling"].mean()
    axis.plot(ceiling.index, ceiling, "_-", ms=8, color="0.6", lw=0.8, zorder=1)
    for label, look, shift in _beside(tidy, looks):
        mine = tidy[tidy["label"] == label]
        law = mine.groupby("dim")["cosine_expected"].mean()
        axis.plot(law.index * shift, law, "_:", ms=5, lw=1.1, color=look["color"], zorder=2)
        _means(axis, mine, "cosine", look, shift)
    _dims(axis, tidy)
    axis.set(ylabel="cosine to the reference gradient")
    axis.set_ylim(min(0, tidy["cosine"].min()) - 0.04, 1.04)
    extra: list[Artist] = []
    if tidy["cosine_expected"].notna().any():
        extra.append(_dashed("law on a linear loss", ":"))
    if ceiling.notna().any():
        extra.append(Line2D([], [], color="0.6", lw=0.8, label="ceiling: two batches"))
    _legend(figure, tidy, looks, extra)
    _note(figure, table, runs, "mean, range (bar) and each (dot)")
    return figure, tidy


# What others call


def kinds() -> dict[str, Kind]:
    """The kinds there are, by name."""
    own = [f for f in globals().values() if inspect.isfunction(f) and f.__module__ == __name__]
    return {
        f.__name__: f
        for f in own
        if not f.__name__.startswith("_") and list(inspect.signature(f).parameters) == ["table"]
    }


def draw(kind: str, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one kind from a table of runs: <folder>/<kind>.png, .svg and .csv, the tidy table.

    Raises ValueError for an unknown kind (naming those there are), a missing column, or where no
    run has a result.
    """
    if kind not in kinds():
        raise ValueError(
            f"there is no figure '{kind}' of a table; there are: {', '.join(kinds())}; "
            "curves are of one run: python -m sa.sweep report RUN_ID"
        )
    with matplotlib.rc_context(sns.axes_style("ticks") | STYLE):
        return _save(*kinds()[kind](table), folder / kind)


def curves(rows: pd.DataFrame, folder: Path, title: str = "") -> list[Path]:
    """Draw the loss and accuracy of one training run over its steps: <folder>/curves.*.

    rows: those of metrics.jsonl; of the columns step, loss, {train,test}/{loss,accuracy} what there
    is. Raises ValueError where there are fewer than two rows, or nothing to draw.
    """
    with matplotlib.rc_context(sns.axes_style("ticks") | STYLE):
        return _save(*_curves(rows, title), folder / "curves")


# A training run


def _curves(rows: pd.DataFrame, title: str) -> tuple[Figure, pd.DataFrame]:
    if len(rows) < 2:
        raise ValueError(f"{'one row' if len(rows) else 'no rows'}: a probe has no curves")
    splits = [f"{split}/{end}" for end in ("loss", "accuracy") for split in ("train", "test")]
    kept = [c for c in ("loss", *splits) if np.isfinite(_numbers(rows, c)).any()]
    if not kept:
        raise ValueError(f"no curve to draw: none of loss, {', '.join(splits)} in the rows")
    step = rows["step"] if "step" in rows else pd.Series(range(len(rows)), index=rows.index)
    tidy = pd.DataFrame({"step": step} | {c: _numbers(rows, c) for c in kept})
    window = max(1, len(tidy) // 50)  # a fiftieth of the run
    if "loss" in tidy and window > 1:
        noisy = tidy["loss"].replace([np.inf, -np.inf], np.nan)
        tidy["loss_smoothed"] = noisy.rolling(window, center=True, min_periods=1).mean()
    ends = [e for e in ("loss", "accuracy") if any(c.split("/")[-1] == e for c in kept)]
    figure, axes = _panels(len(ends))
    colours = dict(zip(("train", "test"), sns.color_palette("colorblind"), strict=False))
    for axis, end in zip(axes, ends, strict=True):
        if end == "loss" and "loss" in tidy:
            axis.plot(step, tidy["loss"], color="0.85", lw=0.5, label="minibatch", zorder=0)
        if end == "loss" and "loss_smoothed" in tidy:
            told = f"minibatch, mean of {window} rows"
            axis.plot(step, tidy["loss_smoothed"], color="0.45", lw=0.9, label=told, zorder=1)
        for split, colour in colours.items():
            if f"{split}/{end}" in tidy:
                seen = tidy[["step", f"{split}/{end}"]].dropna().to_numpy()
                every = max(1, len(seen) // 15)
                axis.plot(*seen.T, "o-", ms=2.5, markevery=every, color=colour, label=split)
        axis.set(xlabel="step", ylabel=end)
        axis.legend(frameon=False)
        if end == "accuracy":
            axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
            axis.set_ylabel("accuracy (%)")
            axis.get_legend().set_loc("lower right")  # type: ignore[union-attr]
            final = tidy.get("test/accuracy", pd.Series(dtype=float)).dropna()
            if len(final):
                told = f"final test accuracy {100 * final.iloc[-1]:.1f} %"
                axis.set_title(told, color=colours["test"], loc="right")
        elif _decades(tidy[[c for c in kept if c.endswith("loss")]]) > 1:
            axis.set_yscale("log")
    if title:
        figure.suptitle(title, fontsize=8.5)
    return figure, tidy


def _decades(losses: pd.DataFrame) -> float:
    seen = losses.to_numpy()[np.isfinite(losses.to_numpy())]
    return float(np.log10(seen.max() / seen.min())) if seen.min() > 0 else 0.0


# From runs to what is drawn


def _runs(table: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, Looks]:
    """The labelled runs that have a result in every column, and the looks of all labels."""
    missing = [c for c in columns if c not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}; `python -m sa.sweep collect` makes "
            "them where the runs were analysed (analysis=[alignment,descent])"
        )
    labelled = _labelled(table)
    there = labelled[list(columns)].map(_finite).all(axis=1)
    if "value" in columns:
        there &= _numbers(labelled, "value") > 0
    if not there.any():
        raise ValueError(f"no run has a result to draw in {', '.join(columns)}")
    return labelled[there], _looks(labelled["label"])


def _finite(cell: Any) -> bool:
    return bool(np.isfinite(np.asarray(cell, dtype=float)).any())


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; nan where a run failed, or everywhere where there is no such column."""
    given = table[column] if column in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(given, errors="coerce").astype(float)


def _line(run: pd.Series) -> pd.DataFrame:
    """The curves of one run, over the loss at its start: a row a step length."""
    about = {"dim": run["dim"], "label": run["label"], "seed": run["seed"], "run": run.name}
    line: dict[str, Any] = {"lr": np.asarray(run["descent/lr"], dtype=float)}
    for name in ("decrease", "decrease_heldout", "null", "null_best"):
        cell = np.asarray(run.get(f"descent/{name}", np.nan), dtype=float)
        line[name] = np.where(np.isfinite(cell), cell, np.nan) / run["value"]
    return pd.DataFrame(about | line)


def _across(tidy: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Step lengths (n,) of all runs and their lines there (runs, n), linear in log step length.

    Grids differ by run, each refined around its own best; outside its grid a line is nan.
    """
    runs = [run for _, run in tidy.dropna(subset=column).groupby("run")]
    grid = np.unique(np.concatenate([[], *(run["lr"] for run in runs)]))
    at = np.log(grid)
    lines = [
        np.interp(at, np.log(run["lr"]), run[column], left=np.nan, right=np.nan) for run in runs
    ]
    return grid, np.array(lines).reshape(len(runs), len(grid))


def _mean(tidy: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    grid, lines = _across(tidy, column)
    return (grid, lines.mean(0)) if len(lines) else (grid, grid)


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a ``label`` a run: the estimator, and the settings that vary within it."""
    table = table.reset_index(drop=True)
    table["seed"] = table.get("seed", 0)
    if "label" in table or "estimator._target_" not in table:
        return table.assign(label=table.get("label", "run"))
    names = table["estimator._target_"].str.split(".").str[-1]
    labels: dict[Any, str] = names.to_dict()
    signs = {"samples": "N=", "sigma": "σ=", "epsilon": "ε=", "surrogate": ""}
    for column in sorted(str(c) for c in table if str(c).startswith("estimator.")):
        key = column.removeprefix("estimator.")
        for _, values in table[column].groupby(names):
            if key == "_target_" or (values.nunique() < 2 and key != "surrogate"):
                continue
            for at, value in values.dropna().items():
                labels[at] += f" {signs.get(key, f'{key}=')}{_short(value)}"
    return table.assign(label=pd.Series(labels))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# How it looks


def _looks(labels: pd.Series) -> Looks:
    """A colour, colour-blind safe, and a marker a label; familiar estimators have their own."""
    palette = sns.color_palette("colorblind", 10)
    own: dict[str, Any] = {name: palette[at] for name, at in FAMILIAR.items()}
    own["random"] = (0.3, 0.3, 0.3)
    order = list(own)
    spare = [palette[at] for at in (1, 4, 9, 8, 6, 5)]
    first = {label: str(label).split()[0].lower() for label in set(labels)}
    looks: Looks = {}
    for label in sorted(first, key=lambda x: ([*order, first[x]].index(first[x]), x)):
        colour = own.pop(first[label], None) or spare.pop(0)
        spare = spare or sns.husl_palette(12)  # more labels than colours that differ well
        looks[label] = {"color": colour, "marker": "osD^vPX<>h"[len(looks) % 10]}
    return looks


def _panels(count: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Panels, four a row, none of them known to pyplot, so nothing global is left."""
    columns, rows = min(count, 4), -(-count // 4)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.5), dpi=200)
    axes = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def _beside(tidy: pd.DataFrame, looks: Looks) -> list[tuple[str, dict[str, Any], float]]:
    """The labels there are, their looks, and a factor that sets them side by side at a dim."""
    there = [label for label in looks if (tidy["label"] == label).any()]
    shifts = 2 ** (0.05 * (np.arange(len(there)) - (len(there) - 1) / 2))
    return [(label, looks[label], shift) for label, shift in zip(there, shifts, strict=True)]


def _means(axis: Axes, mine: pd.DataFrame, column: str, look: dict[str, Any], shift: float) -> None:
    axis.plot(mine["dim"] * shift, mine[column], ".", ms=4, mew=0, alpha=0.4, color=look["color"])
    got = mine.groupby("dim")[column].agg(["mean", "min", "max"])
    axis.vlines(got.index * shift, got["min"], got["max"], color=look["color"], lw=0.8)
    axis.plot(got.index * shift, got["mean"], ms=4.5, mec="white", mew=0.6, zorder=3, **look)


def _dims(axis: Axes, tidy: pd.DataFrame) -> None:
    dims = sorted(tidy["dim"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(dims, [f"{d:g}" for d in dims])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="dim (width of the network)", xlim=(dims[0] / 2**0.35, dims[-1] * 2**0.35))


def _dashed(label: str, line: str = "--") -> Artist:
    return Line2D([], [], color="0.3", ls=line, lw=1, label=label)


def _null(tidy: pd.DataFrame) -> list[Artist]:
    made: list[Artist] = []
    if "null" in tidy and tidy["null"].notna().any():
        made.append(Line2D([], [], color="0.6", lw=0.8, label="null, mean"))
    if tidy["null_best"].notna().any():
        made.append(Patch(fc=NULL["color"], label="null, best"))
    return made


def _legend(figure: Figure, tidy: pd.DataFrame, looks: Looks, extra: Sequence[Artist]) -> None:
    """Below the axes, in as many columns as the figure is wide."""
    there = [
        Line2D([], [], ms=4.5, mec="white", mew=0.6, label=label, **look)
        for label, look, _ in _beside(tidy, looks)
    ]
    handles = [*there, *extra]
    longest = max(len(str(h.get_label())) for h in handles)
    columns = max(1, int(figure.get_figwidth() / (0.06 * longest + 0.5)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False,
        columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip


def _note(figure: Figure, table: pd.DataFrame, runs: pd.DataFrame, spread: str) -> None:
    """Small on top: what the spread is over, what was left out, whether targets differ."""
    points = runs.groupby(["dim", "label"])["seed"].agg(["size", "nunique"])
    low, high = points["size"].min(), points["size"].max()
    over = f"{spread} of {low}" + (f" to {high}" if high > low else "")
    if (points["size"] > points["nunique"]).any():
        over += " runs that differ in more than the seed"
    told = ["one seed"] if high == 1 else [over if over.endswith("seed") else f"{over} seeds"]
    if len(runs) < len(table):
        told.append(f"{len(table) - len(runs)} of {len(table)} runs have no result")
    told.append(_targets(runs))
    width = int(20 * figure.get_figwidth())
    lines = [line for part in told if part for line in textwrap.wrap(part, width)]
    figure.suptitle("\n".join(lines), fontsize=7, color="0.35")


def _targets(runs: pd.DataFrame) -> str:
    """Says so where the compared estimators estimate different things."""
    if "target" not in runs or runs["target"].nunique() < 2:
        return ""
    names = runs["label"]
    if "estimator._target_" in runs:
        names = runs["estimator._target_"].str.split(".").str[-1]
    pairs = runs.dropna(subset="target").groupby(names, sort=False)["target"].unique()
    told = [f"{who} {'/'.join(map(str, what))}" for who, what in pairs.items()]
    return f"targets differ: {told[0].replace(' ', ' estimates ', 1)}, {', '.join(told[1:])}"


def _save(figure: Figure, tidy: pd.DataFrame, path: Path) -> list[Path]:
    """The figure as .png and .svg and its table as .csv, each by rename, so never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    for end, write in (
        ("png", lambda p: figure.savefig(p, format="png", dpi=200)),
        ("svg", lambda p: figure.savefig(p, format="svg", metadata={"Date": None})),
        ("csv", lambda p: tidy.to_csv(p, index=False)),
    ):
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}.{end}")
        write(temp)
        made.append(temp.replace(path.with_suffix(f".{end}")))
    return made
