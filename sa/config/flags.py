"""Words of a command line that set nothing in a run: its options, and settings of Hydra's own."""

import re
from collections.abc import Iterator, Sequence

from sa.config.argv import VALUED
from sa.config.catalogue import GROUPS
from sa.config.error import UsageError, nearest, renamed
from sa.config.explain import no_choice

FLAGS = (
    "--help", "--catalogue", "--multirun", "--cfg", "--resolve", "--package", "--info", "--version",
    "--hydra-help", "--run", "--completion", "--shell-completion", "--config-path", "--config-name",
    "--config-dir",
)  # fmt: skip
"""Options beside settings: ours, and Hydra's own."""

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


def checked(argv: Sequence[str]) -> list[str]:
    """Return the words, without -m where an option only shows something.

    Raises:
        UsageError: an option that does not exist or lacks its value, two that exclude each other,
            or a word that would change nothing.

    """
    there = dict(_flags(argv))
    if len([f for f in there if f in _SHOWS]) > 1:
        raise UsageError(f"{' '.join(there)}: give one of {', '.join(_SHOWS)}")
    for flag, with_ in (("--resolve", ("--cfg",)), ("--package", ("--cfg", "--info"))):
        if flag in there and not set(with_) & set(there):
            raise UsageError(f"{flag}: it goes with --cfg job; alone it changes nothing")
    if {"--multirun", "--run"} <= set(there):
        raise UsageError("-m --run: give one of them; --run is the default")
    other = any(w.startswith("hydra/sweeper=") for w in argv)  # it makes folders of its own
    for word in argv:
        if not word.startswith("-"):
            _check(word, other)
    shows = any(f in there for f in _SHOWS)
    return [w for w in argv if not (shows and _SHORT.get(w, w) == "--multirun")]


def help_asked(argv: Sequence[str]) -> list[str] | None:
    """Return the words that stand beside --help, or None if nobody asks for help.

    Raises:
        UsageError: an option that does not exist, or a word that cannot work.

    """
    if not {"--help", "-h"} & {w.partition("=")[0] for w in argv}:
        return None
    checked([w for w in argv if not w.startswith("--help=")])
    words = (w.removeprefix("--help=") for w in argv)
    beside = zip(words, ["", *argv], strict=False)  # with the word before
    return [w for w, before in beside if not w.startswith("-") and before not in VALUED]


def without_effect(argv: Sequence[str]) -> list[str]:
    """Return the words of a single run that are for sweeps."""
    return [w for w in argv if _OF_SWEEPS.match(w)]


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the long name and the value of every option; UsageError for what is none."""
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
                f"\noptions: {', '.join(FLAGS)}; settings are typed KEY=VALUE"
            )
        expected = _VALUES.get(flag)
        if expected and not given:
            value = argv[at + 1] if at + 1 < len(argv) else ""
            optional = flag == "--info" and (not value or "=" in value or value.startswith("-"))
            value = "all" if optional else value
        if expected and value not in expected:
            raise UsageError(f"{flag} {value}".rstrip() + f": expected {flag} {'|'.join(expected)}")
        yield flag, value


def _check(word: str, other: bool) -> None:
    """Raise UsageError for a word that cannot work, or would change nothing."""
    key, _, value = word.partition("=")
    group = key.lstrip("+").partition("@")[0]
    if ("=" in word or word.startswith("~")) and (message := renamed(word)):
        raise UsageError(message)
    if re.fullmatch(r"[\w./]+=\{\}", word):
        raise UsageError(f"{word} changes nothing: {{}} is merged, not set")
    if re.match(r"[+~]*sizes\b", key):
        raise UsageError(
            f"{word}: sizes is read from an experiment's file; type the settings themselves, e.g. "
            "-m seed=0,1"
        )
    if re.match(r"[+~]*hydra\.sweeper\.params\b", key) and not other:
        raise UsageError(f"{word}: is no setting; type KEY=VALUE,VALUE to sweep, e.g. -m seed=0,1")
    bare = "=" not in word and not word.startswith(("+", "~"))  # asked about, beside --help
    if re.fullmatch(r"[+~]*(sweep|hydra)", key) and not value.startswith("{") and not bare:
        one = "sweep.name=NAME" if "sweep" in key else "hydra.launcher.workers=2"
        raise UsageError(f"{word}: it cannot be replaced as a whole; set what is in it, e.g. {one}")
    if _OWN_FOLDERS.match(word) and not other:
        raise UsageError(f"{word}: runs and sweeps lie under root, and nothing else; set root=X")
    if re.match(r"[+~]*hydra\.mode(=|$)", word):
        raise UsageError(f"{word}: write -m to sweep, and leave it out for one run")
    none = re.fullmatch(r"null|\[(.*,)?\s*null\s*(,.*)?\]", value, re.I)
    if group in GROUPS and none and (group != "experiment" or "[" in value):
        raise UsageError(no_choice(group, None))
    if group in GROUPS and re.fullmatch(r"true|false|[-+]?(\d[\d_]*\.?\d*|\.\d+)", value, re.I):
        raise UsageError(no_choice(group, value))
    if key == "root" and value.strip("'\" ") == "":
        raise UsageError("root=: expected a folder, e.g. root=results; root=. is this one")
