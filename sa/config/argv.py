"""The words of a command line before Hydra reads them: sizes, budgets, what -m keeps back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sa.config import study as studies
from sa.config.catalogue import options
from sa.config.error import UsageError

VALUED = (
    "--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name",
    "-cn", "--config-dir", "-cd",
)  # fmt: skip
"""Options of Hydra whose value may be the next word."""

NO_EXPERIMENT = re.compile(r"\+*experiment=null", re.I)
"""A word that says what is so without it, and that Hydra takes for no option of the group."""

_BUDGETS = {"steps": "0", "epochs": "null"}
"""The two settings of a training's budget, and the value that leaves it to the other."""


@dataclass(frozen=True)
class Words:
    """The words of a command line.

    Hydra composes the defaults with every word that lists no values, so that `estimator.samples=20`
    is refused beside `estimator=nes,cdg` although every swept estimator may have it. So words of
    ``-m`` are held back from it.

    Args:
        typed: all of them, as they were typed.
        hydra: those that Hydra itself reads, ``-m`` first.
        held: those that the sweeper adds to every point.

    """

    typed: list[str]
    hydra: list[str]
    held: list[str] = field(default_factory=list)


def read(argv: list[str]) -> Words:
    """Return the words of a command line, sorted by who reads them.

    Raises:
        UsageError: from `sized` and `settled`.

    """
    words = [x for x in sized(argv) if not NO_EXPERIMENT.fullmatch(x)]
    if not {"-m", "--multirun"} & set(words):
        return Words(argv, settled(words))
    rest = [x for x in words if x not in ("-m", "--multirun")]
    if any(x.startswith("hydra/sweeper=") for x in rest):
        return Words(argv, ["-m", *settled(rest)])
    own = re.compile(r"[~+]*(hydra[./]|hydra=|experiment=)|-|[^=]*$")
    hydra = ["-m", *(x for x in rest if own.match(x))]
    return Words(argv, hydra, [x for x in rest if not own.match(x)])


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
        if word in VALUED and words and not words[0].startswith("-") and not optional:
            options.append(words.pop(0))
    return [*settings, *options]


def sets(words: Sequence[str], key: str) -> bool:
    """Return whether a word sets a top-level key or something below it."""
    return any(re.match(rf"\+*{key}[./@=]", word) for word in words)


def settled(given: Sequence[str]) -> list[str]:
    """The words of one run, where the budget they name replaces the preset's.

    Steps and epochs are two ways to set one budget: naming one leaves the other out. Raises
    UsageError where both are named.
    """
    named = _budgets(given)
    if set(named) == set(_BUDGETS) and not named["steps"].endswith("steps=0"):
        told = " ".join(named.values())
        raise UsageError(f"{told}: both set how long the training is; give one of them")
    typed = {w.lstrip("+~").partition("=")[0] for w in given}
    return [*given, *(f"{k}={v}" for k, v in _BUDGETS.items() if named and k not in typed)]


def yielding(preset: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The words of a preset without those that name a budget, where what is typed names one."""
    return [w for w in preset if not (_budgets([w]) and _budgets(typed))]


def _budgets(given: Sequence[str]) -> dict[str, str]:
    """The last word of steps and of epochs; `epochs=null` names no budget."""
    last = {w.lstrip("+").partition("=")[0]: w for w in given}
    return {k: last[k] for k in _BUDGETS if k in last and not last[k].endswith("epochs=null")}


def sized(argv: list[str]) -> list[str]:
    """Return the words with those of the experiment's size before them.

    With ``-m`` these are what ``sizes.quick`` sweeps. ``size=full`` adds ``sizes.full`` and is
    another sweep, NAME-full, unless it is given a name. What is typed takes the place of the word
    of the same key.

    Raises:
        UsageError: a size that the experiment does not have, or an experiment of an older form.

    """
    rest = [x for x in argv if not re.match(r"\+*size=", x)]
    asked = next((x.lstrip("+") for x in reversed(argv) if x not in rest), "size=quick")
    study = experiment(rest)
    has = studies.sizes(study, rest)
    size = asked.removeprefix("size=")
    if size not in {"quick", *has} or (len(rest) < len(argv) and not study):
        there = ", ".join(x for x in options("experiment") if "full" in studies.sizes(x))
        raise UsageError(f"{asked}: there are size=quick and size=full, of experiment={{{there}}}")
    sweeps = bool({"-m", "--multirun"} & set(argv))
    swept = [k for k, v in has.get(size, {}).items() if isinstance(v, list) and "sweep." not in k]
    if size == "full" and swept and not sweeps:
        raise UsageError(
            f"size=full: it sweeps {', '.join(swept)}; type -m: python -m sa.run -m "
            f"experiment={study} size=full"
        )
    more: list[str] = []
    if size == "full":
        name = (studies.read(study, rest).get("sweep") or {}).get("name") or study
        more = [*studies.words(has["full"]), f"sweep.name={name}-full"]
    if sweeps:
        more = _over(yielding(studies.words(has.get("quick", {})), more), more)
    return _over(yielding(more, rest), rest)


def experiment(words: Sequence[str]) -> str | None:
    """Return the experiment that words name, as Hydra takes it: the last one; None without any."""
    named = [w.partition("=")[2] for w in words if w.startswith("experiment=")]
    return named[-1].strip("'\"") if named else None


def with_sizes(given: Sequence[str], quick: Mapping[str, Any]) -> list[str]:
    """Return the words of a sweep with those of ``sizes.quick`` that are not among them yet.

    `sized` reads the file of an experiment by its name. Hydra also finds sizes that a file takes
    over from another, or that ``hydra.searchpath`` leads to.
    """
    there = {_key(w) for w in given}
    if all(k.lstrip("~") in there for k in quick):
        return list(given)
    return _over(yielding(studies.words(quick), given), given)


def _over(preset: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return all words; what is typed takes the place of a preset word of the same key."""
    keys = {_key(w) for w in preset}
    mine = {k: [w for w in typed if _key(w) == k] for k in keys}
    placed = [w for one in preset for w in mine[_key(one)] or [one]]
    return [*placed, *(w for w in typed if _key(w) not in keys)]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
