"""The copy of the code that the jobs of a sweep run, so that later edits do not change them."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sa.config import trust
from sa.config.error import UsageError
from sa.config.search import CONF
from sa.record import files, provenance, telling
from sa.record.identity import Config

LARGEST = 64 << 20
"""The largest size, in bytes, of a foreign package or module that is copied."""


def take(folder: Path, configs: Sequence[Config]) -> None:
    """Copy sa and the foreign code of some configurations, for the jobs of a sweep.

    A package that an earlier command of the sweep copied is not copied again.

    Args:
        folder: the folder of the sweep; the copy is its folder ``code``.
        configs: the configurations of its points.

    """
    code, package = folder / "code", Path(__file__).resolve().parents[1]
    if code.exists():
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(code.stat().st_mtime))
        telling.note(
            f"sweep.snapshot: the points run the code that was copied on {day} to {code}; to run "
            "today's code, delete that folder"
        )
    sources = [package, CONF, package.parent / "hydra_plugins", *foreign(configs)]
    lacking = [s for s in sources if not (code / s.name).exists()]
    temp = folder / f".tmp-code-{os.getpid()}"
    temp.mkdir()
    for source in lacking:
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, temp / source.name, ignore=skip)
        else:
            shutil.copy2(source, temp / source.name)
    about = {k: v for c in configs for k, v in trust.packages(c).items()}
    about |= files.read_json(code / trust.NOTE) or {}
    if not code.exists():
        files.write_json(temp / provenance.NOTE, provenance.commit())
        files.write_json(temp / trust.NOTE, about)
        temp.replace(code)
        return
    for source in lacking:
        (temp / source.name).replace(code / source.name)
    temp.rmdir()
    files.write_json(code / trust.NOTE, about)


def foreign(configs: Sequence[Config]) -> list[Path]:
    """Return the folders and files of the foreign packages that some configurations name.

    With them come the modules in the same folder that they have imported, such as a file of
    helpers. (To check a configuration is to import its classes.) Beside an installed package are
    other distributions; these are not copied.
    """
    named = {name for config in configs for name in trust.packages(config)}
    places = {path for name in named if (path := trust.place(name))}
    folders = {p.parent for p in places if p.parent.name not in ("site-packages", "dist-packages")}
    imported = {name.partition(".")[0] for name in list(sys.modules)} - trust.NEVER
    beside = {path for name in imported if (path := trust.place(name)) and path.exists()}
    return sorted(places | {p for p in beside if p.parent in folders})


def obstacles(configs: Sequence[Config]) -> Iterator[UsageError]:
    """Yield the reasons why the foreign code of some configurations cannot be copied."""
    for source in foreign(configs):
        if not source.exists():
            yield UsageError(
                f"sweep.snapshot: '{source.stem}' is no folder or file, but {source}, so that it "
                "cannot be copied; unpack it, or type sweep.snapshot=false"
            )
            continue
        every = [source] if source.is_file() else list(_copied(source))
        sizes = {path: path.stat().st_size for path in every}
        if sum(sizes.values()) > LARGEST:
            largest = max(sizes, key=lambda path: sizes[path])
            yield UsageError(
                f"sweep.snapshot: '{source.stem}' has {sum(sizes.values()) / 1e6:.0f} MB, and code "
                f"up to {LARGEST / 1e6:.0f} MB is copied. Its largest file is {largest}; keep data "
                "outside of the package, or type sweep.snapshot=false"
            )


def _copied(folder: Path) -> Iterator[Path]:
    """Yield the files of a package that are copied."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(x.startswith(".") or x == "__pycache__" for x in inside):
            yield path


def paths(folder: Path) -> dict[str, str]:
    """Return the variables with which Python finds a sweep's copy first; {} without a copy.

    The current folder comes last: by default ``python -m`` looks there before anywhere else, and
    the folder of a package may be the current one.
    """
    code = folder / "code"
    if not code.is_dir():
        return {}
    users = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    every = [str(code.resolve()), *map(os.path.abspath, users), os.getcwd()]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(every)), "PYTHONSAFEPATH": "1"}
