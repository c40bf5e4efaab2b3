"""Checks of the words of a command line: its options, and words that Hydra would take amiss."""

import re
from collections.abc import Iterator, Sequence

from sa.config.argv import VALUED
from sa.config.catalogue import GROUPS
from sa.config.error import UsageError, nearest, renamed
from sa.config.explain import no_choice

FLAGS = (
    "--help", "--catalogue", "--multirun", "--cfg", "--resolve", "--package", "--info", "--version",
    "--hydra-help", "--run", "--completion", "--shell-completion", "--config-path", "--config-name",
    "--config-dir", "--trust",
)  # fmt: skip
"""The options of the command line: those of sa, and those of Hydra."""

_SHORT = {
    "-h": "--help", "-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info",
    "-r": "--run", "-sc": "--shell-completion", "-cp": "--config-path", "-cn": "--config-name",
    "-cd": "--config-dir",
}  # fmt: skip
_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_SHOWS = ("--cfg", "--info", "--shell-completion", "--hydra-help", "--version")
_OWN_FOLDERS = re.compile(
    r"[+~]*hydra\.(run\.dir|sweep\.dir|sweep\.subdir|output_subdir|job\.chdir)(=|$)"
)
_OF_SWEEPS = re.compile(
    r"\+*(hydra[/.](launcher|sweeper)[.\w]*|"
    r"sweep\.(zip|points|exclude|replace|canary|max_failures|wait|snapshot))="
)


def check_words(argv: Sequence[str]) -> list[str]:
    """Refuse options and words that cannot work or change nothing; return the others.

    -m is left out if an option only shows something.

    Raises:
        UsageError: an option that does not exist or lacks its value, two that exclude each other,
            or a word that would change nothing.

    """
    flags = dict(_flags(argv))
    if len([f for f in flags if f in _SHOWS]) > 1:
        raise UsageError(
            f"{' '.join(flags)}: each of them shows something else; give one of {', '.join(_SHOWS)}"
        )
    for flag, needs in (("--resolve", ("--cfg",)), ("--package", ("--cfg", "--info"))):
        if flag in flags and not set(needs) & set(flags):
            raise UsageError(f"{flag}: alone it changes nothing; type --cfg job {flag}")
    if {"--multirun", "--run"} <= set(flags):
        raise UsageError("-m --run: one sweeps, the other does not; give one of them")
    other_sweeper = any(w.startswith("hydra/sweeper=") for w in argv)
    for word in argv:
        if not word.startswith("-"):
            _check_setting(word, other_sweeper)
    shows = any(f in flags for f in _SHOWS)
    return [w for w in argv if not (shows and _SHORT.get(w, w) == "--multirun")]


def help_words(argv: Sequence[str]) -> list[str] | None:
    """Return the words that stand beside --help; None without --help.

    Raises:
        UsageError: an option that does not exist, or a word that cannot work.

    """
    if not {"--help", "-h"} & {w.partition("=")[0] for w in argv}:
        return None
    check_words([w for w in argv if not w.startswith("--help=")])
    words = (w.removeprefix("--help=") for w in argv)
    beside = zip(words, ["", *argv], strict=False)  # each with the word before it
    return [w for w, before in beside if not w.startswith("-") and before not in VALUED]


def without_effect(argv: Sequence[str]) -> list[str]:
    """Return the words of a single run that are for sweeps."""
    return [w for w in argv if _OF_SWEEPS.match(w)]


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the long name and the value of every option; UsageError for an unknown one."""
    for at, word in enumerate(argv):
        typed, given, value = word.partition("=")
        if not word.startswith("-"):
            continue
        flag = _SHORT.get(typed, typed)
        if flag not in FLAGS:
            close = nearest(flag, FLAGS)
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(
                f"{flag}: there is no such option{hint}"
                f"\nthere are: {', '.join(FLAGS)}; type settings as KEY=VALUE"
            )
        expected = _VALUES.get(flag)
        if expected and not given:
            value = argv[at + 1] if at + 1 < len(argv) else ""
            optional = flag == "--info" and (not value or "=" in value or value.startswith("-"))
            value = "all" if optional else value
        if expected and value not in expected:
            raise UsageError(f"{flag} {value}".rstrip() + f": expected {flag} {'|'.join(expected)}")
        yield flag, value


def _check_setting(word: str, other_sweeper: bool) -> None:
    """Raise UsageError for a word that cannot work, or would change nothing.

    Args:
        word: one setting, as it was typed.
        other_sweeper: whether a sweeper of Hydra runs, which makes folders of its own.

    """
    key, _, value = word.partition("=")
    group = key.lstrip("+").partition("@")[0]
    if ("=" in word or word.startswith("~")) and (message := renamed(word)):
        raise UsageError(message)
    if re.fullmatch(r"[\w./]+=\{\}", word):
        instead = "type analysis=[] for no analysis" if key == "analysis" else "leave it out"
        raise UsageError(f"{word} changes nothing: {{}} adds settings, here none; {instead}")
    if re.match(r"[+~]*sizes\b", key):
        raise UsageError(
            f"{word}: only the file of an experiment has sizes; type the settings themselves, "
            "e.g. -m seed=0,1"
        )
    if re.match(r"[+~]*hydra\.sweeper\.params\b", key) and not other_sweeper:
        raise UsageError(
            f"{word}: there is no such setting; type KEY=VALUE,VALUE to sweep, e.g. -m seed=0,1"
        )
    bare = "=" not in word and not word.startswith(("+", "~"))  # such as a word beside --help
    if re.fullmatch(r"[+~]*(sweep|hydra)", key) and not value.startswith("{") and not bare:
        one = "sweep.name=NAME" if "sweep" in key else "hydra.launcher.workers=2"
        raise UsageError(
            f"{word}: it cannot be replaced as a whole; type one of its settings, e.g. {one}"
        )
    if _OWN_FOLDERS.match(word) and not other_sweeper:
        raise UsageError(f"{word}: the folders of runs and sweeps lie under root; set root=FOLDER")
    if re.match(r"[+~]*hydra\.mode(=|$)", word):
        raise UsageError(f"{word}: -m decides it; write -m to sweep, and leave it out for one run")
    holds_null = re.fullmatch(r"null|\[(.*,)?\s*null\s*(,.*)?\]", value, re.I)
    if group in GROUPS and holds_null and (group != "experiment" or "[" in value):
        raise UsageError(no_choice(group, None))
    if group in GROUPS and re.fullmatch(r"true|false|[-+]?(\d[\d_]*\.?\d*|\.\d+)", value, re.I):
        raise UsageError(no_choice(group, value))
    if key == "root" and value.strip("'\" ") == "":
        raise UsageError("root=: expected a folder, e.g. root=results; root=. is the current one")
