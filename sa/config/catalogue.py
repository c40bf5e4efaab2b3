"""Groups, options and settings, as the files of conf/ and your own list them, without imports."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sa.config.error import UsageError
from sa.config.search import CONF, find, folders
from sa.config.trust import place

_SA = Path(__file__).resolve().parents[1]

GROUPS = (
    "experiment",
    "estimator",
    "model",
    "dataset",
    "quantizer",
    "quantizer/weight",
    "quantizer/activation",
    "quantizer/gradient",
    "analysis",
    "optimizer",
    "schedule",
    "average",
    "init",
    "tracker",
    "hydra/launcher",
)


def options(group: str) -> dict[str, str]:
    """Return the options of a group: name -> description in one line.

    Behind the description of one that is not sa's own stands its package or folder, in brackets.
    """
    found: dict[str, str] = {}
    for folder in folders():
        for file in sorted((folder.path / group).glob("*.yaml")):
            owner = f" [{folder.owner}]" if folder.owner else ""
            found.setdefault(file.stem, _about(file, group) + owner)
    return found


def _about(file: Path, group: str) -> str:
    """Return the description in an option's file; '' if it has none."""
    text = file.read_text()
    if group == "experiment":
        described = re.search(r"^description: *(.*)$", text, re.M)
        return described.group(1) if described else ""
    lines = [x[1:].strip() for x in text.splitlines() if x.startswith("#")]
    return next((x for x in lines if not x.startswith("@package")), "")


def plain(group: str, name: str) -> dict[str, Any]:
    """Return the content of an option's YAML file, unresolved; {} if it holds only comments."""
    path = find(group, name)
    assert path is not None, f"{group}={name}"
    return _content(path, path.stat().st_mtime_ns)


@cache
def _content(path: Path, changed: int) -> dict[str, Any]:
    import yaml

    try:
        node = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(node, dict):
        raise UsageError(f"{path}: expected lines KEY: VALUE")
    return node


@cache
def chosen() -> dict[str, Any]:
    """Return the option of every group that the defaults choose; a list of analyses, or None."""
    import yaml

    entries = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    return {k: v for x in entries if isinstance(x, dict) for k, v in x.items() if k in GROUPS}


@cache
def commented() -> dict[str, tuple[str, str]]:
    """Return the settings of conf/config.yaml: name -> (text of the default, comment)."""
    found = {}
    above = ""
    for line in (CONF / "config.yaml").read_text().splitlines():
        match = re.match(r"(  )?([a-z_]+): *([^#]*?) *(?:# *(.*))?$", line)
        if not match:
            continue
        indent, key, value, comment = match.groups()
        above = above if indent else key
        if above not in ("defaults", "hydra") and (value or comment):
            found[f"{above}.{key}" if indent else key] = (value, comment or "")
    return found


@dataclass(frozen=True)
class Member:
    """A row of the catalogue of estimators, read from an estimator's YAML file and docstrings.

    Args:
        about: what it is, with source and year, in one line.
        target: the gradient that it estimates, from the ``target`` of its class.
        evals: its price, from the ``estimate`` of its class.
        theorem: the line ``# theorem:`` of the YAML file, which is about the settings of the file;
            without one the first sentence of the class.

    """

    about: str
    target: str
    evals: str
    theorem: str


def estimators() -> dict[str, Member]:
    """Return every option of ``estimator=`` by its name; imports none of them."""
    found = {}
    for name, about in options("estimator").items():
        file = find("estimator", name)
        text = file.read_text() if file else ""
        node = _source(str(plain("estimator", name).get("_target_", "")))
        docs = {x.name: _sentence(x) for x in node.body if isinstance(x, ast.FunctionDef)}
        fixed = [
            x.value.value
            for x in node.body
            if isinstance(x, ast.AnnAssign | ast.Assign)
            and isinstance(x.value, ast.Constant)
            and "target" in (ast.unparse(t) for t in _assigned(x))
        ]
        own_target = docs.get("target", "not known").removeprefix("Return the target: ")
        target = str(fixed[0]) if fixed else own_target
        own = re.search(r"^# theorem: *(.+)$", text, re.M)
        theorem = own.group(1) if own else _sentence(node)
        body = docs.get("estimate") or docs.get("__call__", "")
        evals = body.removeprefix("Return the estimate, in ")
        found[name] = Member(about, target, evals, theorem)
    return found


def _assigned(node: Any) -> list[Any]:
    """Return what an assignment assigns to, with or without an annotation."""
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _source(target: str) -> ast.ClassDef:
    """Return the class of a dotted name, read from its file; an empty one if it is not found."""
    module, _, cls = target.rpartition(".")
    root, *inside = module.split(".")
    folder = _SA if root == "sa" else place(root) if root else None
    file = folder.joinpath(*inside).with_suffix(".py") if folder and inside else folder
    if file and not file.is_file():
        file = folder.joinpath(*inside, "__init__.py") if folder else None
    body = ast.parse(file.read_text()).body if file and file.is_file() else []
    found = (x for x in body if isinstance(x, ast.ClassDef) and x.name == cls)
    return next(found, ast.ClassDef(cls, [], [], [], []))


def _sentence(node: Any) -> str:
    """Return the first sentence of a docstring."""
    first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s+(?=[A-Z])|; (?=draws)", first)[0].rstrip(".")


@cache
def figures() -> tuple[str, ...]:
    """Return the figure kinds: the files of sa/figure, without importing them."""
    found = {p.stem for p in (_SA / "figure").glob("[a-z]*.py")}
    return tuple(sorted(found - {"draw", "lines"}))


@cache
def drawn_as_lines(name: str) -> str:
    """Return the experiment that has a figure of lines of that name; '' if none has."""
    for study in options("experiment"):
        for one in plain("experiment", study).get("figure") or []:
            if isinstance(one, Mapping) and one.get("name") == name:
                return study
    return ""


LINES = (
    "{kind: lines, x: COLUMN, y: COLUMN, hue: COLUMN, panels: COLUMN, rows: COLUMN, "
    "random: COLUMN, interval: true, levels: [NUMBER], log: [x, y], name: NAME}"
)
"""A figure that needs no file: a result against a setting, or against the step of trainings."""

HUED = "{kind: lr_decrease | best_decrease, hue: COLUMN, best: [COLUMN], name: NAME}"
"""A figure of decreases with the values of one setting as colours, and the best of others."""


@cache
def top() -> tuple[str, ...]:
    """Return the top-level keys of a configuration."""
    import yaml

    whole = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = [k for x in whole["defaults"] if isinstance(x, dict) for k in x]
    skip = ("defaults", "hydra", "_self_")
    return tuple(k for k in (*groups, *whole) if k not in skip and not k.startswith("override "))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every value that is no mapping, or an empty one."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
