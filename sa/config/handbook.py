"""The pages of `--help`: overview, groups, settings; and the catalogue of estimators."""

import textwrap
from collections.abc import Iterable

from sa.config.catalogue import (
    GROUPS,
    HUED,
    LINES,
    chosen,
    commented,
    estimators,
    figures,
    options,
    plain,
)
from sa.config.describe import entry, option_page, settings
from sa.config.error import HELP, UsageError, nearest
from sa.record.identity import RENAMED

WIDTH = 100

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

MORE = """\
more:
  --help GROUP             every option of a group, e.g. --help estimator
  GROUP=OPTION --help      what an option is and each of its settings, e.g. estimator=nes --help
  --help experiment=NAME   what a study sweeps and expects, and how long it takes
  --help settings          every setting with its type, default and meaning
  --help KEY               one setting, e.g. --help batch_size
  --catalogue              a table of all estimators, with their theorems
  --config-dir DIR         options of a folder of yours; all pages list them
  check MODULE:CLASS       whether a class of yours keeps the laws of its room
  --trust PACKAGE          a configuration may name classes of this package of yours"""


def help_page(words: Iterable[str]) -> str:
    """Return the help for the words beside ``--help``; the overview if there are no words.

    Raises:
        UsageError: a word that names no group, option or setting.

    """
    pages = [word_page(word.lstrip("+~")) for word in words]
    return "\n\n".join(pages) or overview()


def overview() -> str:
    """Return the first page: commands, groups, names of settings, and how to go on."""
    out = [USAGE, "groups (type GROUP=OPTION), and how many options each has:"]
    for name in GROUPS:
        known, default = options(name), chosen().get(name)
        first = [default] if isinstance(default, str) else default or []
        listed = ", ".join(
            [*(f"{x} (default)" for x in first), *(x for x in known if x not in first)]
        )
        listed = textwrap.shorten(listed, WIDTH - 28, placeholder=" ...")
        out.append(f"  {name:<20} {len(known):>3}  {listed}")
    out.append("\nsettings (type KEY=VALUE):")
    names = ", ".join(commented())
    out += textwrap.wrap(names, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*out, "", MORE])


def word_page(word: str) -> str:
    """Return the page of one word: GROUP, GROUP=OPTION, OPTION, KEY or KEY=VALUE.

    Raises:
        UsageError: the word names no group, option or setting.

    """
    key, given, value = word.lstrip("+").partition("=")
    key = key.partition("@")[0]
    if key == "size":
        return (
            "size=quick | size=full: which size of an experiment runs, quick by default. Some "
            "experiments have size=images, too.\n"
            "--help experiment=NAME says what each sets."
        )
    if key == "images":
        page = (
            "images=cifar10 | images=fashion_mnist: the images of a study whose size=full has\n"
            "CIFAR-10, cifar10 by default. fashion_mnist is padded to 32 x 32 and has three equal\n"
            "channels, so that the networks stay the same. --help experiment=NAME says whether a\n"
            "study takes the word."
        )
        return page if given else f"{page}\n\n{option_page('dataset', 'images')}"
    if key == "settings":
        return "settings (type KEY=VALUE), with their defaults:\n" + _table(commented())
    if key in GROUPS and not given:
        return _group(key)
    if key in GROUPS:
        names = [x.strip() for x in value.strip("[]").split(",") if x.strip()]
        if not names:
            return _group(key)
        return "\n\n".join(option_page(key, name) for name in names)
    below = [k for k in commented() if k == key or k.startswith(f"{key}.")]
    if below:
        return _table(below)
    group = key.partition(".")[0]
    rooms = [g for g in GROUPS if g.split("/")[0] == group or g.replace("/", ".").startswith(group)]
    owners = [f"{g}={o}" for g in rooms for o in options(g) if _has(g, o, key)]
    if owners:
        return "\n".join([f"{key} is a setting of:", *(f"  {o} --help" for o in owners)])
    named = [g for g in GROUPS if key in options(g)]
    if named and not given:
        return "\n\n".join(option_page(g, key) for g in named)
    if key in RENAMED:
        raise UsageError(
            f"--help {word}: this setting is called {RENAMED[key]} now; type --help {RENAMED[key]}"
        )
    close = nearest(key, [*GROUPS, *commented(), *(o for g in GROUPS for o in options(g))])
    hint = f"; did you mean --help {close}?" if close else ""
    raise UsageError(f"--help {word}: there is no such group, option or setting{hint}\n{HELP}")


def _has(group: str, name: str, key: str) -> bool:
    return any(one.key == key for one in settings(group, name))


def _table(keys: Iterable[str]) -> str:
    """Return the lines of settings: KEY=DEFAULT, the type in words, and below the meaning."""
    from sa.config.settings import explained  # pydantic, which the first page does without

    lines = []
    for key in keys:
        default = commented()[key][0]
        kind, meaning = explained()[key]
        meaning += f". Kinds: {', '.join([*figures(), LINES, HUED])}" if key == "figure" else ""
        lines.append(entry(f"{key}={default}", kind, meaning))
    return "\n".join(lines)


def _group(group: str) -> str:
    out = [f"{group}=OPTION, with OPTION one of:"]
    if group == "estimator":
        for name, m in estimators().items():
            target = f"target: {m.target}; {m.evals}".replace("``", "")
            out += [f"  {name:<18} {m.about}", f"  {'':<18}   {target}"]
    else:
        out += [f"  {name:<18} {about}" for name, about in options(group).items()]
    return "\n".join([*out, f"{group}=OPTION --help prints the settings of one."])


def catalogue_page() -> str:
    """Return the catalogue of estimators as Markdown. It builds each, to read its target."""
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
        target = _target(name) or m.target
        cells = (f"`{name}`", m.about, target, m.evals, m.theorem)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def _target(name: str) -> str:
    """Return the target of an estimator; '' if it cannot be built or its package is not trusted."""
    from sa.config.component import make

    try:
        return str(make("estimator", plain("estimator", name)).target)
    except UsageError:
        return ""
