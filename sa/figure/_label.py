"""The labels, panels and horizontal axis of runs, made of their settings."""

import json
from typing import Any

import pandas as pd

from sa.figure._settings import settings, unshown, value_text, varying_settings
from sa.table.results import numbers

DIM = "dim (width of the network)"

WIDTHS = ("model.dim", "model.size", "dataset.dim")
"""The settings of models and datasets that follow ``dim``."""


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a ``label``: the estimator, and its settings that vary."""
    table = _activated(table)
    if "label" in table or "estimator._target_" not in table:
        return table.assign(label=table.get("label", "run"), seed=table.get("seed", 0))
    names = table["estimator._target_"].str.split(".").str[-1].str.replace("Random", "random")
    labels = names.copy()
    for column in sorted(str(c) for c in table if str(c).startswith("estimator.")):
        key = column.removeprefix("estimator.")
        own = "" if key.endswith("._target_") else f"{key}="  # the class of an estimator's base
        shown = {"samples": "N=", "sigma": "σ=", "epsilon": "ε=", "surrogate": ""}.get(key, own)
        for _, rows in table.groupby(names):
            values = rows[column].dropna().astype(str).unique()
            if key == "_target_" or (len(values) < 2 and key != "surrogate"):
                continue
            words = table.loc[rows.index, column].map(lambda v, shown=shown: _setting(shown, v))
            labels.loc[rows.index] += words
    return table.assign(label=labels, seed=table.get("seed", 0))


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the columns that kinds draw by.

    - ``label``: the estimator, and its settings that vary;
    - ``activation``: the activation's quantizer;
    - ``configuration``: all settings that vary but the seed, as a text;
    - ``facet``: the panel: the layer that moves and the weights' quantizer, if those vary, else
      the dim;
    - ``x``: the horizontal axis of kinds that show one number a run, with its name in
      ``attrs["x"]``: the dim if it varies, else another numeric setting that varies, else 1.
    """
    table = labelled(table)
    width = widths_of(table)
    configuration = unshown(table)
    if not configuration.any():  # only one exists
        configuration = table["label"]
    configuration = configuration.replace("", "the defaults")
    name, x = _x(table, width)
    table = table.assign(facet=_facet(table, width), x=x, configuration=configuration)
    table.attrs["x"] = name
    return table


def widths_of(table: pd.DataFrame) -> pd.Series:
    """Return the dim of each run; NaN if neither its model nor its dataset depends on it.

    A run depends on ``dim`` if another setting follows it: ``model.dim``, ``model.size``,
    ``dataset.dim``, or any number that equals it in all runs while it varies.
    """
    dims = numbers(table, "dim")
    if "settings" not in table.attrs:
        return dims
    used = pd.Series(False, table.index)
    for name in map(str, settings(table)):
        if "." not in name or not pd.api.types.is_numeric_dtype(table[name]):
            continue
        known = table[name].notna()
        same = bool(known.any()) and (table[name] == dims)[known].all()
        if same and (name in WIDTHS or dims[known].nunique() > 1):
            used |= known
    return dims.where(used)


def _facet(table: pd.DataFrame, width: pd.Series) -> pd.Series:
    """Return the panel of each run: its moving layer and weights' quantizer, or its dim."""
    if "moving" not in table or table["moving"].nunique() < 2:
        return width.map("dim {:g}".format).where(width.notna(), "")
    facet = "layer " + table["moving"].astype(str).str.strip("[]").str.replace('"', "")
    weights = "quantizer.weight._target_"
    if weights in table and table[weights].nunique() > 1:
        kinds = table[weights].str.split(".").str[-1].replace("Identity", "full-precision")
        facet = facet + ", " + kinds + " weights"
    return facet


def _x(table: pd.DataFrame, width: pd.Series) -> tuple[str, pd.Series]:
    """Return the name and the values of the horizontal axis of kinds with one number a run."""
    if width.nunique() > 1 and width.notna().all():
        return DIM, width
    found = {}
    typed = {k for one in table.get("typed", []) for k in one}
    for name in varying_settings(table):
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
    """Return the facets of a table, dims in the order of their size."""
    found = list(table["facet"].unique())
    return sorted(found, key=lambda f: float(f[4:]) if f.startswith("dim ") else 0.0)


def _activated(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column ``activation``: sign, ternary, 2-bit, ..."""
    column = "quantizer.activation._target_"
    if "activation" in table or column not in table:
        return table.assign(activation=table.get("activation", "network"))
    names = table[column].str.split(".").str[-1].str.lower().replace("bernoulli", "sign")
    levels = numbers(table, "quantizer.activation.levels")
    known = {3: "ternary", 4: "2-bit", 8: "3-bit", 16: "4-bit"}
    by_levels = levels.map(lambda n: known.get(n, f"{n:g} levels"))
    return table.assign(activation=names.where(levels.isna(), by_levels))


def paired(table: pd.DataFrame) -> pd.Series:
    """Return a text for the two trainings that each run compares: ``STE - CDG, one start``.

    Further settings follow if runs with equal texts differ in them. It is the column
    ``configuration`` if the estimators of the trainings are unknown.
    """
    configuration: pd.Series = table["configuration"]
    if "ends" not in table:
        return configuration
    words = []
    for ends, seed in zip(map(json.loads, table["ends"].fillna("[]")), table["seed"], strict=True):
        if not ends or not all(isinstance(e, dict) and "estimator" in e for e in ends):
            return configuration
        names = [e["estimator"]["_target_"].rsplit(".", 1)[-1] for e in ends]
        starts = [e.get("init_seed") for e in ends]
        starts = [
            e.get("seed", seed) if s is None else s for e, s in zip(ends, starts, strict=True)
        ]
        start = "one start" if starts[0] == starts[1] else "two starts"
        words.append(f"{' - '.join(names)}, {start}")
    pairs = pd.Series(words, table.index)
    more = unshown(table, [pairs])
    return pairs.where(more == "", pairs.str.cat(more, sep=", "))


def activations(table: pd.DataFrame) -> list[str]:
    """Return the activations of a table; activations with few levels come first."""
    order = ["sign", "ternary", "2-bit", "3-bit", "4-bit"]
    found = set(table["activation"])
    return [a for a in order if a in found] + sorted(found - set(order))


def _setting(shown: str, value: Any) -> str:
    """Return a setting as labels show it: '' if it is off, its name alone if it is on."""
    if pd.isna(value) or str(value) in ("False", "none", "[]"):
        return ""
    if str(value) == "True":  # the number 1 is not meant
        return f" {shown.rstrip('=')}"
    if isinstance(value, str) and value.startswith("["):  # show how many entries a list has
        several = value.count(",") + 1
        return f" {value.strip('[]').strip(chr(34))}" if several == 1 else f" {shown}{several}"
    return f" {shown}{value:g}" if isinstance(value, float) else f" {shown}{value_text(value)}"
