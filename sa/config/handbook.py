"""The help page and the catalogue of estimators, as text."""

import re

from sa.config.catalogue import CONF, GROUPS, estimators, figures, options

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
