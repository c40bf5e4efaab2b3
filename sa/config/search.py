"""The folders of options: conf/ of sa, of installed packages, and those of the command line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa.config import trust

_SA = Path(__file__).resolve().parents[1]
CONF = next(p for p in (_SA / "conf", _SA.parent / "conf") if (p / "config.yaml").is_file())
"""The folder of all settings of sa: inside the package in a wheel, beside it in a checkout."""


@dataclass(frozen=True)
class Folder:
    """A folder of options.

    Args:
        path: where it is.
        owner: its package with the version, or the folder as it was typed; '' for sa's own.

    """

    path: Path
    owner: str = ""


_SEARCHPATH = re.compile(r"\+*hydra\.searchpath=\[?(.*?)\]?")

_TYPED: list[Folder] = []
"""The folders that this command names; `use` sets them, before anything looks for an option."""


def use(argv: Sequence[str]) -> None:
    """Search the folders that the words of a command line name, and no others of earlier ones."""
    _TYPED[:] = _config_dirs(argv)
    for word in argv:
        if found := _SEARCHPATH.fullmatch(word):
            names = (x.strip(" '\"") for x in found.group(1).split(","))
            _TYPED.extend(folder for name in names if name and (folder := _of_searchpath(name)))


def others(argv: Sequence[str]) -> list[str]:
    """Return the words that name no folder."""
    before = ["", *argv]
    flags = ("--config-dir", "-cd")
    return [
        word
        for word, last in zip(argv, before, strict=False)
        if not (word.partition("=")[0] in flags or last in flags or _SEARCHPATH.fullmatch(word))
    ]


def _config_dirs(argv: Sequence[str]) -> Iterator[Folder]:
    """Yield the folders of ``--config-dir``."""
    for at, word in enumerate(argv):
        flag, given, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            value = value if given else "".join(argv[at + 1 : at + 2])
            yield Folder(Path(value), value)


def _of_searchpath(name: str) -> Folder | None:
    """Return the folder of an entry of ``hydra.searchpath``; None if its package is not found."""
    scheme, given, rest = name.partition("://")
    if scheme != "pkg" or not given:
        path = rest if given else name
        return Folder(Path(path), path)
    package, *inside = rest.split(".")
    found = trust.place(package)
    return Folder(found.joinpath(*inside), rest) if found else None


def of_packages() -> list[Folder]:
    """Return the folder ``conf`` of every installed package for sa; imports no package."""
    versions = trust.installed().items()
    places = ((f"{name} {version}".strip(), trust.place(name)) for name, version in versions)
    return [
        Folder(path / "conf", owner)
        for owner, path in sorted(places)
        if path and (path / "conf").is_dir()
    ]


def folders() -> list[Folder]:
    """Return the folders in the order of Hydra: of two files of one name the first is taken."""
    return [Folder(CONF), *of_packages(), *_TYPED]


def find(group: str, name: str) -> Path | None:
    """Return the file of an option; None if no folder has it."""
    paths = (folder.path / group / f"{name}.yaml" for folder in folders())
    return next((p for p in paths if p.is_file()), None)
