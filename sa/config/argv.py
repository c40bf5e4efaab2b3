"""The command line before Hydra reads it: sizes, budgets, and what -m keeps back from Hydra."""

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
"""The word for no experiment. Hydra would look for an option called null."""

_BUDGETS = {"steps": "0", "epochs": "null"}
"""The two settings of a training's budget -> the value that leaves the budget to the other."""


@dataclass(frozen=True)
class CommandLine:
    """The words of a command line, sorted by who reads them.

    Hydra first composes the defaults with every word that lists no values. It would then refuse
    `estimator.samples=20` beside `estimator=nes,cdg`, although every swept estimator may have that
    setting. So with ``-m`` Hydra reads few words, and the sweeper adds the others to each point.

    Args:
        typed: all words, as they were typed.
        for_hydra: the words that Hydra reads, ``-m`` first.
        for_points: the words that the sweeper adds to every point.

    """

    typed: list[str]
    for_hydra: list[str]
    for_points: list[str] = field(default_factory=list)


def read(argv: list[str]) -> CommandLine:
    """Return the words of a command line, sorted by who reads them.

    Raises:
        UsageError: from `with_size` and `one_budget`.

    """
    words = [x for x in with_size(argv) if not NO_EXPERIMENT.fullmatch(x)]
    if not {"-m", "--multirun"} & set(words):
        return CommandLine(argv, one_budget(words))
    rest = [x for x in words if x not in ("-m", "--multirun")]
    if any(x.startswith("hydra/sweeper=") for x in rest):
        return CommandLine(argv, ["-m", *one_budget(rest)])
    own = re.compile(r"[~+]*(hydra[./]|hydra=|experiment=)|-|[^=]*$")
    hydra = ["-m", *(x for x in rest if own.match(x))]
    return CommandLine(argv, hydra, [x for x in rest if not own.match(x)])


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


def one_budget(words: Sequence[str]) -> list[str]:
    """Return the words of one run; a budget that they name replaces the experiment's.

    Steps and epochs are two ways to set one budget, so naming one switches the other off.

    Raises:
        UsageError: the words name both.

    """
    named = _budgets(words)
    if set(named) == set(_BUDGETS) and not named["steps"].endswith("steps=0"):
        both = " ".join(named.values())
        raise UsageError(f"{both}: both set how long the training is; give one of them")
    keys = {w.lstrip("+~").partition("=")[0] for w in words}
    return [*words, *(f"{k}={v}" for k, v in _BUDGETS.items() if named and k not in keys)]


def _budgets(words: Sequence[str]) -> dict[str, str]:
    """Return the last word of steps and of epochs; `epochs=null` names no budget."""
    last = {w.lstrip("+").partition("=")[0]: w for w in words}
    return {k: last[k] for k in _BUDGETS if k in last and not last[k].endswith("epochs=null")}


def with_size(argv: list[str]) -> list[str]:
    """Return the words, and before them those that the experiment's size sets.

    With ``-m`` these are what ``sizes.quick`` sweeps. Another size, such as ``size=full``, adds
    ``sizes.full`` and is another sweep, called NAME-full unless the command line names it. A typed
    word replaces the size's word of the same key. ``images=fashion_mnist`` replaces the CIFAR-10 of
    ``sizes.full``.

    Raises:
        UsageError: the experiment has no such size or images, or its file has an older form.

    """
    rest, size_word = _without(argv, "size")
    rest, images_word = _without(rest, "images")
    study = experiment(rest)
    sizes = studies.sizes(study)
    size = (size_word or "size=quick").removeprefix("size=")
    if size not in {"quick", *sizes} or (size_word and not study):
        others = [k for k in sizes if k != "quick"]
        if others:
            there = " and ".join(f"size={k}" for k in ["quick", *others])
            raise UsageError(f"{size_word}: experiment={study} has {there}")
        full = ", ".join(x for x in options("experiment") if "full" in studies.sizes(x))
        raise UsageError(
            f"{size_word}: there are size=quick and size=full, of experiment={{{full}}}"
        )
    sweeps = bool({"-m", "--multirun"} & set(argv))
    typed = {_key(w) for w in rest}
    swept = [k for k, v in sizes.get(size, {}).items() if _sweeps(k, v) and k not in typed]
    if size != "quick" and swept and not sweeps:
        raise UsageError(
            f"{size_word}: it sweeps {', '.join(swept)}; type -m: python -m sa.run -m "
            f"experiment={study} {size_word}"
        )
    preset: list[str] = []
    sets = sizes.get(size, {}) if size != "quick" else {}
    if images_word:
        sets = _with_images(images_word, rest, study, sets if size == "full" else None)
    if size != "quick":
        name = (studies.read(study).get("sweep") or {}).get("name") or study
        other = images_word.replace("images=", "-").replace("-cifar10", "")
        preset = [*studies.words(sets), f"sweep.name={name}-{size}{other}"]
    if sweeps:
        preset = _replaced(studies.words(sizes.get("quick", {})), preset)
    return _replaced(preset, rest)


def _sweeps(key: str, value: Any) -> bool:
    """Return whether a size sweeps over this setting: [0, 1] and range(5) are values of runs."""
    is_range = isinstance(value, str) and re.match(r"range *\(", value) is not None
    return "sweep." not in key and (isinstance(value, list) or is_range)


def _without(words: Sequence[str], key: str) -> tuple[list[str], str]:
    """Return the words without those that set a key, and the last of these; '' if none does."""
    rest = [x for x in words if not re.match(rf"\+*{key}=", x)]
    return rest, next((x.lstrip("+") for x in reversed(words) if x not in rest), "")


def _with_images(
    word: str, words: Sequence[str], study: str | None, full: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings of size=full with the images that a word names.

    Args:
        word: the word, such as images=fashion_mnist.
        words: the other words.
        study: name of the study; None if none is named.
        full: the settings of its size=full; None for another size.

    Raises:
        UsageError: the images are not known, or the study has no CIFAR-10 to replace.

    """
    name = word.removeprefix("images=")
    if name not in studies.IMAGES:
        there = " and ".join(f"images={x}" for x in studies.IMAGES)
        raise UsageError(f"{word}: there are {there}")
    if full is None or not study:
        raise UsageError(
            f"{word}: it replaces CIFAR-10 in size=full of a study, such as python -m sa.run -m "
            f"experiment=cifar_depth size=full {word}; for other runs type dataset=fashion_mnist"
        )
    if not studies.takes_images(study):
        there = ", ".join(x for x in options("experiment") if studies.takes_images(x))
        raise UsageError(
            f"{word}: size=full of experiment={study} has no CIFAR-10 to replace; leave it out. "
            f"It works with experiment={{{there}}}"
        )
    if given := [w for w in words if _key(w) == "dataset"]:
        raise UsageError(f"{word} and {given[0]}: both choose the data; give one of them")
    return studies.with_images(full, name)


def experiment(words: Sequence[str]) -> str | None:
    """Return the experiment that the words name; of several the last, as Hydra; else None."""
    named = [w.partition("=")[2] for w in words if w.startswith("experiment=")]
    return named[-1].strip("'\"") if named else None


def with_quick_size(words: Sequence[str], quick: Mapping[str, Any]) -> list[str]:
    """Return the words of a sweep with those of ``sizes.quick`` that are not among them yet.

    `with_size` reads the file of an experiment by its name. Hydra also finds sizes that a file
    takes over from another.
    """
    keys = {_key(w) for w in words}
    if all(k.lstrip("~") in keys for k in quick):
        return list(words)
    return _replaced(studies.words(quick), words)


def _replaced(preset: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return all words; a typed word takes the place of the preset word of the same key.

    A typed budget, of steps or of epochs, removes that of the preset.
    """
    preset = [w for w in preset if not (_budgets([w]) and _budgets(typed))]
    keys = {_key(w) for w in preset}
    replacing = {k: [w for w in typed if _key(w) == k] for k in keys}
    placed = [w for one in preset for w in replacing[_key(one)] or [one]]
    return [*placed, *(w for w in typed if _key(w) not in keys)]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
