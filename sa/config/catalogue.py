"""What there is to type, from the folders: imports nothing heavy."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_SA = Path(__file__).resolve().parents[1]
CONF = next(p for p in (_SA / "conf", _SA.parent / "conf") if (p / "config.yaml").is_file())
"""The folder of every knob: inside the package in a wheel, beside it in a checkout."""

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

USAGE = """\
sa: a laboratory for gradients of networks that have none.

  python -m sa.run                                         probe one gradient, with the defaults
  python -m sa.run estimator=nes estimator.sigma=0.01      one word, one number
  python -m sa.run experiment=digits_ste                   train on real data
  python -m sa.run -m experiment=descent_dims              a study: many runs, tables, figures
  python -m sa.run -m dim=8,16,32 estimator=cdg,nes seed=0,1,2
  python -m sa.run -m experiment=descent_dims size=full sweep.dry_run=true
  python -m sa.sweep status|collect|retry|report NAME      follow and read

-m sweeps over comma-separated values; write it first. `--cfg job` prints the whole configuration.
"""
HELP = "settings and groups: python -m sa.run --help"


def options(group: str) -> dict[str, str]:
    """Name -> one line of description, of every option of a group, from the folder."""
    found = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        lines = [x[1:].strip() for x in file.read_text().splitlines() if x.startswith("#")]
        about = next((x for x in lines if not x.startswith("@package")), "")
        if group == "experiment":
            about = re.search(r"^description: *(.*)$", file.read_text(), re.M).group(1)  # type: ignore[union-attr]
        found[file.stem] = about
    return found


@dataclass(frozen=True)
class Member:
    """What the catalogue says of an estimator: all of it read from its YAML and its docstrings.

    about: one line with source and year. target, evals: of the class' ``target`` and ``__call__``.
    theorem: the YAML's own line ``# theorem:``, for the settings that it sets; without one the
    first sentence of the class.
    """

    about: str
    target: str
    evals: str
    theorem: str


def estimators() -> dict[str, Member]:
    """Every option of ``estimator=``, from the folders; nothing of them is imported."""
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
        target = str(fixed[0]) if fixed else docs["target"].removeprefix("What it estimates: ")
        own = re.search(r"^# theorem: *(.+)$", text, re.M)
        theorem = own.group(1) if own else _sentence(node)
        found[name] = Member(about, target, docs["__call__"], theorem)
    return found


def _sentence(node: Any) -> str:
    """The first paragraph of a docstring, up to the end of its first sentence."""
    import ast

    first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s+(?=[A-Z])|; (?=draws)", first)[0].rstrip(".")


def page() -> str:
    """The catalogue of estimators as Markdown; makes each of them, to ask it for its target."""
    import yaml

    from sa.config.component import make

    lines = [
        "# Estimators",
        "",
        "Made by `python -m sa.run --catalogue`, from `conf/estimator/` and the docstrings of",
        "`sa/estimator/`. Evals are forward-equivalents, a backward counts 2; N is `samples`,",
        "D the parameters that move. Estimates of different targets are different gradients.",
        "",
        "| `estimator=` | what it is | target | evals | theorem |",
        "|---|---|---|---|---|",
    ]
    for name, m in estimators().items():
        node = yaml.safe_load((CONF / "estimator" / f"{name}.yaml").read_text())
        target = make("estimator", node).target
        cells = (f"`{name}`", m.about, target, m.evals, m.theorem)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def figures() -> list[str]:
    """The figure kinds: the files of their room, read without importing them."""
    return sorted({p.stem for p in (_SA / "figure").glob("[a-z]*.py")} - {"draw"})


def catalogue() -> str:
    """The help page: usage, every group's options, the loop's settings; imports nothing heavy."""
    out = [USAGE]
    for group in GROUPS:
        out.append(f"{group}=")
        if group == "estimator":
            for name, m in estimators().items():
                out.append(f"  {name:<18} {m.about}")
                out.append(f"  {'':<18}   target: {m.target}; {m.evals}")
            continue
        for name, about in options(group).items():
            out.append(f"  {name:<18} {about}")
    out.append("\nsettings (KEY=VALUE), with their defaults:")
    for line in (CONF / "config.yaml").read_text().splitlines():
        if line.startswith("figure:"):
            line = line.split("#")[0] + "# drawn at the end; null: what a sweep measured; "
            line += ", ".join(figures())
        if re.match(r"(  )?[a-z_]+: +[^#]", line) and not line.startswith(("defaults", "  dir")):
            key, rest = line.split(":", 1)
            if key.strip() in ("output_subdir", "chdir"):
                continue
            value, _, about = rest.partition("#")
            key = f"sweep.{key.strip()}" if key.startswith("  ") else key
            out.append(f"  {key + '=' + value.strip():<28} {about.strip()}")
    out.append(
        "\nA component's own settings: conf/<group>/<name>.yaml, e.g. estimator.samples=5000"
    )
    return "\n".join(out)


@cache
def top() -> tuple[str, ...]:
    """The top-level keys of a configuration."""
    import yaml

    whole = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = [k for x in whole["defaults"] if isinstance(x, dict) for k in x]
    skip = ("defaults", "hydra", "_self_")
    return tuple(k for k in (*groups, *whole) if k not in skip and not k.startswith("override "))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
