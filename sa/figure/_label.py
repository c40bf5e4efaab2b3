"""What runs are called in figures, and where they lie on their axes."""

import json
from typing import Any

import pandas as pd

from sa.figure._apart import rest, settings, varied
from sa.figure._paper import numbers
from sa.table import names

DIM = "dim (width of the network)"

WIDTHS = ("model.dim", "model.size", "dataset.dim")
"""The settings that are ``dim`` in what this project has."""


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


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what kinds draw by: ``label``, ``activation``, ``facet``, ``x``, ``told``.

    told: all that varies beside the replicate, in words. facet: a panel each, the layer that moves
    where that varies, and the weights' quantizer; else the dim. x: the horizontal axis of what has
    one number a run, named by ``attrs["x"]``: the dim where it varies; else another setting that
    is a number, or one place for all.
    """
    table = labelled(table)
    wide = widths_of(table)
    told = rest(table)
    if not told.any():  # one configuration
        told = table["label"]
    told = told.replace("", "the defaults")
    name, x = _abscissa(table, wide)
    table = table.assign(facet=_facet(table, wide), x=x, told=told)
    table.attrs["x"] = name
    return table


def widths_of(table: pd.DataFrame) -> pd.Series:
    """The dim of each run; nan where neither its model nor its data has one.

    It has one where another setting follows ``dim``: ``model.dim``, ``model.size``, ``dataset.dim``
    or whatever equals it in all runs that have it, while it varies.
    """
    dims = numbers(table, "dim")
    if "settings" not in table.attrs:
        return dims
    used = pd.Series(False, table.index)
    for name in map(str, settings(table)):
        if "." not in name or not pd.api.types.is_numeric_dtype(table[name]):
            continue
        there = table[name].notna()
        same = bool(there.any()) and (table[name] == dims)[there].all()
        if same and (name in WIDTHS or dims[there].nunique() > 1):
            used |= there
    return dims.where(used)


def _facet(table: pd.DataFrame, wide: pd.Series) -> pd.Series:
    if "moving" not in table or table["moving"].nunique() < 2:
        return wide.map("dim {:g}".format).where(wide.notna(), "")
    told = "layer " + table["moving"].astype(str).str.strip("[]").str.replace('"', "")
    weights = "quantizer.weight._target_"
    if weights in table and table[weights].nunique() > 1:
        kinds = table[weights].str.split(".").str[-1].replace("Identity", "full-precision")
        told = told + ", " + kinds + " weights"
    return told


def _abscissa(table: pd.DataFrame, wide: pd.Series) -> tuple[str, pd.Series]:
    """The name and the values of the horizontal axis of what has one number a run."""
    if wide.nunique() > 1 and wide.notna().all():
        return DIM, wide
    found = {}
    typed = {k for one in table.get("typed", []) for k in one}
    for name in varied(table):
        if typed and name not in typed:
            continue
        values = numbers(table, name)
        if "estimator." not in name and name != "dim" and values.notna().all():
            found[name] = values
    if found:
        name = max(found, key=lambda k: found[k].nunique())
        return name, found[name]
    return "", pd.Series(1.0, table.index)


def facets(table: pd.DataFrame) -> list[str]:
    """The facets of a table, dims by their size."""
    there = list(table["facet"].unique())
    return sorted(there, key=lambda f: float(f[4:]) if f.startswith("dim ") else 0.0)


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


def paired(table: pd.DataFrame) -> pd.Series:
    """What each run varies, told of the two trainings it looks at: ``STE - CDG, one start``.

    What else the sweep varies follows, where runs of one name differ in it. The column ``told``
    where their estimators are not told.
    """
    everything: pd.Series = table["told"]
    if "ends" not in table:
        return everything
    words = []
    for ends, seed in zip(map(json.loads, table["ends"].fillna("[]")), table["seed"], strict=True):
        if not ends or not all(isinstance(e, dict) and "estimator" in e for e in ends):
            return everything
        names = [e["estimator"]["_target_"].rsplit(".", 1)[-1] for e in ends]
        own = [e.get("seed", seed) if e.get("init_seed") is None else e["init_seed"] for e in ends]
        words.append(f"{' - '.join(names)}, {'one start' if own[0] == own[1] else 'two starts'}")
    pairs = pd.Series(words, table.index)
    more = rest(table, [pairs])
    return pairs.where(more == "", pairs.str.cat(more, sep=", "))


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


def reference(table: pd.DataFrame, name: str = "") -> str:
    """The gradient that ``alignment/cosine`` compares with: the study's first reference.

    name: another of its references. CDG, or the name given, where the table does not say; ``the
    reference`` where runs have several.
    """
    start = f"analysis.alignment.references.{name}"
    keys = (str(c) for c in table if str(c).startswith(start) and str(c).endswith("._target_"))
    key = next((k for k in keys if table[k].notna().any()), None)
    if key is None:
        return name or names.reference(None)
    epsilons = numbers(table, key.replace("_target_", "epsilon"))
    told = zip(table[key], epsilons, strict=True)
    found = {names.reference(t, e) for t, e in told if isinstance(t, str)}
    return found.pop() if len(found) == 1 else "the reference"
