"""The words of a command line before Hydra reads them: sizes, budgets, what -m keeps back."""

import re
from collections.abc import Sequence
from typing import Any

from sa.config.catalogue import CONF, options
from sa.config.error import UsageError

TYPED: list[str] = []
"""The words of the command line as they were typed."""

HELD: list[str] = []
"""Words of ``-m`` kept from Hydra, which would try them on the defaults first: for the sweeper."""

_VALUED = (
    "--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name",
    "-cn", "--config-dir", "-cd",
)  # fmt: skip
"""Options of Hydra whose value may be the next word."""

NO_EXPERIMENT = re.compile(r"\+*experiment=null", re.I)
"""A word that says what is so without it, and that Hydra takes for no option of the group."""

_BUDGETS = {"steps": "0", "epochs": "null"}
"""The two settings of a training's budget, and the value that leaves it to the other."""


def hold(argv: list[str]) -> list[str]:
    """The words of a multirun that Hydra itself needs, ``-m`` first; the others go to HELD.

    Hydra composes the defaults with every word that lists no values, so that `estimator.samples=20`
    is refused beside `estimator=nes,cdg` although every swept estimator may have it.
    """
    TYPED[:] = argv
    HELD.clear()
    argv = [x for x in sized(argv) if not NO_EXPERIMENT.fullmatch(x)]
    if not {"-m", "--multirun"} & set(argv):
        return settled(argv)
    rest = [x for x in argv if x not in ("-m", "--multirun")]
    if any(x.startswith("hydra/sweeper=") for x in rest):
        return ["-m", *settled(rest)]
    own = re.compile(r"[~+]*(hydra[./]|hydra=|experiment=)|-|[^=]*$")
    HELD.extend(x for x in rest if not own.match(x))
    return ["-m", *(x for x in rest if own.match(x))]


def settings_first(argv: list[str]) -> list[str]:
    """Return the words with every option, and its value, behind the settings.

    Hydra's parser takes settings from one place: of ``dim=4 --cfg job seed=1`` it refuses the last.
    """
    settings: list[str] = []
    options: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        (options if word.startswith("-") else settings).append(word)
        optional = word in ("--info", "-i") and words and "=" in words[0]
        if word in _VALUED and words and not words[0].startswith("-") and not optional:
            options.append(words.pop(0))
    return [*settings, *options]


def was_typed(key: str) -> bool:
    """Whether a word of the command line sets a top-level key or something below it."""
    return any(re.match(rf"\+*{key}[./@=]", word) for word in TYPED)


def settled(words: Sequence[str]) -> list[str]:
    """The words of one run, where the budget they name replaces the preset's.

    Steps and epochs are two ways to set one budget: naming one leaves the other out. Raises
    UsageError where both are named.
    """
    named = _budgets(words)
    if set(named) == set(_BUDGETS) and not named["steps"].endswith("steps=0"):
        told = " ".join(named.values())
        raise UsageError(f"{told}: both set how long the training is; give one of them")
    typed = {w.lstrip("+~").partition("=")[0] for w in words}
    return [*words, *(f"{k}={v}" for k, v in _BUDGETS.items() if named and k not in typed)]


def yielding(words: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The words of a preset without those that name a budget, where what is typed names one."""
    return [w for w in words if not (_budgets([w]) and _budgets(typed))]


def _budgets(words: Sequence[str]) -> dict[str, str]:
    """The last word of steps and of epochs; `epochs=null` names no budget."""
    last = {w.lstrip("+").partition("=")[0]: w for w in words}
    return {k: last[k] for k in _BUDGETS if k in last and not last[k].endswith("epochs=null")}


def sized(argv: list[str]) -> list[str]:
    """The words with ``size=full`` replaced by what the experiment's ``full`` lists.

    A word of its list yields to a typed one of the same key. The sweep is another one, NAME-full,
    unless it is given a name. ``size=quick`` is the experiment as it is. Raises UsageError for
    another size, or where there is no experiment that has it.
    """
    rest = [x for x in argv if not re.match(r"\+*size=", x)]
    if rest == argv:
        return argv
    size = next(x.lstrip("+") for x in reversed(argv) if x not in rest)
    study = next((x.partition("=")[2] for x in rest if x.startswith("experiment=")), None)
    if size == "size=quick" and study:
        return rest
    if size != "size=full" or not full(study):
        there = ", ".join(x for x in options("experiment") if full(x))
        raise UsageError(f"{size}: there are size=quick and size=full, of experiment={{{there}}}")
    name = (_experiment(study).get("sweep") or {}).get("name") or study
    typed = {x.lstrip("+~").partition("=")[0] for x in rest}
    words = [*yielding(full(study), rest), f"sweep.name={name}-full"]
    return [*(w for w in words if w.lstrip("+~").partition("=")[0] not in typed), *rest]


def full(experiment: str | None) -> list[str]:
    """What ``size=full`` types of an experiment; empty where it has one size."""
    return [str(word) for word in _experiment(experiment).get("full") or []]


def _experiment(name: str | None) -> dict[str, Any]:
    import yaml

    path = CONF / "experiment" / f"{name}.yaml"
    return yaml.safe_load(path.read_text()) or {} if path.is_file() else {}


def swept(experiment: str | None) -> list[str]:
    """The settings that an experiment's own sweep varies."""
    node = _experiment(experiment)
    return list(((node.get("hydra") or {}).get("sweeper") or {}).get("params") or {})
