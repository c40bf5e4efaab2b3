"""Groups, options and settings, as the files of conf/ list them; imports nothing heavy."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_SA = Path(__file__).resolve().parents[1]
CONF = next(p for p in (_SA / "conf", _SA.parent / "conf") if (p / "config.yaml").is_file())
"""The folder of all settings: inside the package in a wheel, beside it in a checkout."""

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
    """Return the options of a group: name -> description in one line."""
    found = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        lines = [x[1:].strip() for x in file.read_text().splitlines() if x.startswith("#")]
        about = next((x for x in lines if not x.startswith("@package")), "")
        if group == "experiment":
            about = re.search(r"^description: *(.*)$", file.read_text(), re.M).group(1)  # type: ignore[union-attr]
        found[file.stem] = about
    return found


@cache
def plain(group: str, name: str) -> dict[str, Any]:
    """Return the content of an option's YAML file, unresolved; {} if it holds only comments."""
    import yaml

    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}


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
    import ast

    found = {}
    for name, about in options("estimator").items():
        text = (CONF / "estimator" / f"{name}.yaml").read_text()
        _, _, file, cls = re.search(r"^_target_: (\S+)$", text, re.M).group(1).split(".")  # type: ignore[union-attr]
        body = ast.parse((_SA / "estimator" / f"{file}.py").read_text()).body
        (node,) = (x for x in body if isinstance(x, ast.ClassDef) and x.name == cls)
        docs = {x.name: _sentence(x) for x in node.body if isinstance(x, ast.FunctionDef)}
        fixed = [
            x.value.value
            for x in node.body
            if isinstance(x, ast.AnnAssign)
            and isinstance(x.target, ast.Name)
            and x.target.id == "target"
            and isinstance(x.value, ast.Constant)
        ]
        target = str(fixed[0]) if fixed else docs["target"].removeprefix("Return the target: ")
        own = re.search(r"^# theorem: *(.+)$", text, re.M)
        theorem = own.group(1) if own else _sentence(node)
        evals = docs["estimate"].removeprefix("Return the estimate, in ")
        found[name] = Member(about, target, evals, theorem)
    return found


def _sentence(node: Any) -> str:
    """Return the first sentence of a docstring."""
    import ast

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


LINES = "{kind: lines, x: COLUMN, y: COLUMN, hue: COLUMN, panels: COLUMN, log: [x, y], name: NAME}"
"""A figure that needs no file: a result against a setting, or against the step of trainings."""


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
