"""The pages of `--help` for one option with its settings, and for one study."""

import importlib
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa.config import study
from sa.config.catalogue import estimators, options, plain
from sa.config.error import UsageError, typed
from sa.config.explain import no_option
from sa.config.fields import Field, fields, prose
from sa.config.trust import allowed

_LAUNCHERS = {"Inline": "here.Inline", "Local": "here.Local", "Slurm": "slurm.Slurm"}
"""Launcher -> the class of `sa.launch` that documents its settings."""


@dataclass(frozen=True)
class Setting:
    """One setting of an option.

    Args:
        key: its full name, such as estimator.samples.
        value: its default; a mapping for a component that has settings of its own.
        target: dotted name of the class that documents the setting; '' if no class does.
        name: its name in that class, or in conf/config.yaml.

    """

    key: str
    value: Any
    target: str
    name: str


def option_page(group: str, name: str) -> str:
    """Return the page of an option: its description, its settings, the text of its class.

    Raises:
        UsageError: the group has no such option.

    """
    if name not in options(group):
        raise UsageError(no_option(group, name))
    if group == "experiment":
        return _study_page(name)
    out = [f"{group}={name}: {options(group)[name]}"]
    if group == "estimator":
        m = estimators()[name]
        out[0] += f"\ntarget: {m.target}; {m.evals}\ntheorem: {m.theorem}"
    shown_settings = list(settings(group, name))
    lines = [_setting_lines(x) for x in shown_settings]
    out.append("settings:\n" + "\n".join(lines) if lines else "It has no settings.")
    target = _target(_node(group, name))
    if why := _why_unknown(target):
        out.append(why)
    elif target.startswith("torch."):  # torch's text is long, and few change its other settings
        more = [f for f in _fields(target) if f not in {x.name for x in shown_settings}]
        out.append(f"more settings, typed +{group}.NAME=VALUE: {', '.join(more)}")
    elif target:
        out.append(prose(inspect.getdoc(_class(target)) or ""))
    return "\n\n".join(out).replace("``", "").rstrip()


def settings(group: str, name: str) -> Iterator[Setting]:
    """Yield the settings of an option as its file lists them, those of nested components too."""
    if group == "experiment":
        return
    node = _node(group, name)
    for entry in node.get("defaults", []):  # the options of a quantizer's slots
        slots = entry.items() if isinstance(entry, Mapping) else ()
        for slot, option in slots:
            yield Setting(f"{group}/{slot}", option, _target(node), slot)
            own = {"_target_": plain(f"{group}/{slot}", option)["_target_"], **node.get(slot, {})}
            yield from _within(own, f"{group}.{slot}")
    if "defaults" in node:
        return
    inner = [next(iter(plain(group, name)))] if group == "analysis" else []
    yield from _within(node, ".".join([*group.split("/"), *inner]))


def _within(node: Mapping[str, Any], prefix: str) -> Iterator[Setting]:
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        yield Setting(f"{prefix}.{key}", value, _target(node), key)
        if isinstance(value, Mapping):
            named = {key: value} if "_target_" in value else value  # else components by name
            for inner, part in named.items():
                if isinstance(part, Mapping):
                    path = f"{prefix}.{key}" if named is not value else f"{prefix}.{key}.{inner}"
                    yield from _within(part, path)


def entry(head: str, kind: str, meaning: str) -> str:
    """Return the lines of a setting: KEY=DEFAULT, its type in words, and below its meaning."""
    first = textwrap.wrap(
        f"{head:<38} {kind}".rstrip(), 98, initial_indent="  ", subsequent_indent=" " * 41,
        break_on_hyphens=False, drop_whitespace=False,
    )  # fmt: skip
    lines = textwrap.wrap(meaning, 94)
    return "\n".join([*(x.rstrip() for x in first), *(f"      {x}" for x in lines)])


def _setting_lines(one: Setting) -> str:
    """Return the lines of a setting of an option."""
    from sa.config.settings import explained

    kind, meaning = explained().get(one.name, ("", ""))
    if one.target and not _why_unknown(one.target):
        found = _fields(one.target).get(one.name, Field(one.name, "", ""))
        kind, meaning = found.kind, found.meaning
        if one.target.startswith("torch."):  # its first sentence is enough here
            meaning = re.split(r"\. | \(", meaning)[0]
    if "/" in one.key:
        kind = f"--help {one.key} lists the options"
    colon = ": " if isinstance(one.value, Mapping) else "="
    return entry(f"{one.key}{colon}{shown(one.value)}", kind, meaning)


def shown(value: Any) -> str:
    """Return the text to type for a default; <KEY> if the default is the value of setting KEY."""
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    if isinstance(value, Mapping):
        target = str(value.get("_target_", "")).split(".")
        file = target[-1].lower() if target[0] == "torch" else target[-2:][0]
        return file or ", ".join(value)
    return re.sub(r"\$\{(?:oc\.select:)?([\w.]+)(?:,null)?\}", r"<\1>", typed(value))


def _node(group: str, name: str) -> dict[str, Any]:
    """Return the mapping that describes an option; an analysis sits under its own name."""
    node = plain(group, name)
    return node[next(iter(node))] if group == "analysis" else node


def _target(node: Mapping[str, Any]) -> str:
    """Return the dotted name of the class that documents a component; '' if no class does."""
    target = str(node.get("_target_", ""))
    if target.startswith("hydra_plugins."):
        return f"sa.launch.{_LAUNCHERS[target.rpartition('.')[2]]}"
    return target


def _class(target: str) -> type:
    if target.partition(".")[0] not in ("sa", "torch"):
        return allowed("_target_", target)
    module, _, name = target.rpartition(".")
    return vars(importlib.import_module(module))[name]


def _why_unknown(target: str) -> str:
    """Return why the class of an option says nothing here: you do not trust it; '' if it does."""
    try:
        return "" if not target or _class(target) else ""
    except UsageError as error:
        return str(error)


def _fields(target: str) -> dict[str, Field]:
    """Return the settings of a class by their names."""
    return {f.name: f for f in fields(_class(target))}


def _study_page(name: str) -> str:
    """Return the page of an experiment: its sweep, its time, its expectations, its figures."""
    node = plain("experiment", name)
    out = [f"experiment={name}: {options('experiment')[name]}"]
    how = node.get("sweep") or {}
    axes = list(_axis_lines(study.sizes(name).get("quick", {}), how))
    out.append("it sweeps:\n" + "\n".join(axes) if axes else "It is one run; it sweeps nothing.")
    for size, sets in study.sizes(name).items():
        if size == "quick":
            continue
        keys = [k for k in ("points", "zip", "exclude") if f"sweep.{k}" in sets]
        listed = {k: sets[f"sweep.{k}"] for k in keys}
        others = {k: v for k, v in sets.items() if k.removeprefix("sweep.") not in listed}
        out.append(f"size={size} sets:\n" + "\n".join(_axis_lines(others, listed)))
    if study.takes_images(name):
        out.append(
            "size=full images=fashion_mnist takes Fashion-MNIST, padded to 32 x 32 and with three "
            "equal channels, in place of CIFAR-10"
        )
    command = f"python -m sa.run {'-m ' if axes else ''}experiment={name}"
    took = _time_taken(how.get("name") or name) if axes else ""
    out.append(
        f"to run it: {command}\ntime: {took or 'not known, it has not run in this folder'}; "
        "sweep.dry_run=true prints what is to do"
    )
    expected = [_expectation_lines(one) for one in node.get("expectations") or []]
    out.append("it expects:\n" + "\n".join(expected) if expected else "It expects nothing.")
    kinds = ", ".join(_figure_words(one) for one in node.get("figure") or [])
    return "\n\n".join([*out, f"figures: {kinds or 'as measured'}"])


def _figure_words(figure: Any) -> str:
    """Return the name of a kind of figure; for lines, "RESULT against AXIS"; else "KIND by HUE"."""
    if not isinstance(figure, Mapping):
        return str(figure)
    if figure["kind"] != "lines":
        return f"{figure['kind']} by {figure['hue']}"
    y = figure["y"]
    return f"{' and '.join(y) if isinstance(y, list) else y} against {figure['x']}"


def _axis_lines(size: Mapping[str, Any], how: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each setting that a size varies, and for each point it adds or leaves out.

    Args:
        size: the settings of the size, without the lists of ``sweep``.
        how: the lists ``points``, ``zip`` and ``exclude`` of ``sweep``.

    """
    yield from (f"  {word}" for word in study.words(size))
    for point in how.get("points") or []:
        yield f"  point: {_words(point)}"
    if together := how.get("zip"):
        yield f"  together: {', '.join(together)}"
    yield from (f"  without: {_words(one)}" for one in how.get("exclude") or [])


def _words(one: Any) -> str:
    """Return the words to type for the settings of a mapping."""
    return " ".join(study.words(one)) if isinstance(one, Mapping) else str(one)


def _time_taken(name: str) -> str:
    """Return how long the finished points of a sweep below SA_ROOT took; '' without a sweep."""
    from sa.record import files, run, sweep

    root = Path(os.environ.get("SA_ROOT", ".")).expanduser()
    if name not in sweep.sweeps(root):
        return ""
    try:
        points = sweep.read_manifest(root, name)[1]
        results = [run.read_result(root, point["run_id"]) for point in points]
    except files.RecordError:
        return ""
    spent = [float(r["seconds"]) for r in results if r]
    return f"{len(spent)} of {len(points)} points are done here, in {sum(spent):.0f} s of computing"


def _expectation_lines(one: Mapping[str, Any]) -> str:
    """Return an expectation in two lines: the number and its runs, then the source."""
    number = f"  {one['id']}: {one['statistic']}"
    if one.get("where"):
        number += f" of {_words(one['where'])}"
    if one.get("against"):
        number += f", {one.get('how', 'ratio')} with {_words(one['against'])}"
    if one.get("tau"):
        number += f", Kendall's tau with {one['tau']}"
    return f"{number}: {one['predicate']} {shown(one['value'])}\n      {one['source']}"
