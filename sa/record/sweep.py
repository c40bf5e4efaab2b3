"""The folder of a sweep: its manifest, which is written before any point runs."""

import difflib
import hashlib
import re
import time
from pathlib import Path
from typing import Any

from sa.record.files import (
    Missing,
    RecordError,
    json_line,
    json_lines,
    make_folder,
    read_json,
    write_json,
    write_text,
)
from sa.record.identity import current

_REMEDY = "Repeat the `python -m sa.run -m ...` command of this sweep: it writes the manifest again"


def sweep_folder(root: Path | str, name: str) -> Path:
    """Return the folder of a sweep; raise Missing if its name is not a single word."""
    if not re.fullmatch(r"[\w+=,@%][\w.+=,@%-]*", name) or len(name.encode()) > 200:
        allowed = "up to 200 letters, digits and . _ - + = , @ %, not beginning with a dot or dash"
        short = name if len(name) < 60 else f"{name[:57]}..."
        raise Missing(
            f"a sweep cannot be named '{short}' ({len(name)} letters): a name is {allowed}"
        )
    return Path(root).expanduser() / "sweeps" / name


def sweeps(root: Path | str) -> list[str]:
    """Return the names of all sweeps below a root."""
    return sorted(p.parent.name for p in Path(root).expanduser().glob("sweeps/*/manifest.jsonl"))


def write_manifest(
    root: Path | str, name: str, points: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    """Write the manifest of a sweep.

    Args:
        root: the folder of all runs and sweeps.
        name: the name of the sweep.
        points: ``{"index", "run_id", "overrides"}`` for each point.
        about: facts about the whole sweep.

    """
    folder = sweep_folder(root, name)
    _check(points, f"sweep {name}")
    make_folder(folder, root)
    lines = b"".join(map(json_line, points))
    write_json(folder / "sweep.json", {**about, "digest": hashlib.sha256(lines).hexdigest()})
    write_text(folder / "manifest.jsonl", lines.decode())


def read_manifest(root: Path | str, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (about, points) of a sweep; raise Missing, with the names there are, if it is none."""
    path = sweep_folder(root, name) / "manifest.jsonl"
    if not path.exists():
        raise Missing(f"there is no sweep '{name}' in {path.parent.parent}; {near(root, name)}")
    points, _ = json_lines(path, _REMEDY)
    _check(points, str(path))
    for _ in range(3):  # the two files are written one after the other
        about = read_json(path.with_name("sweep.json")) or {}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if about.get("digest", digest) == digest:
            return current(about), points
        time.sleep(0.1)
    raise RecordError(f"{path} was edited after the sweep wrote it. {_REMEDY}")


def near(root: Path | str, name: str) -> str:
    """Return the names of sweeps that may be meant instead of ``name``, for an error."""
    names = sweeps(root)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    known = f"there are: {', '.join(names)}" if names else "there are no sweeps yet"
    return f"{hint}{known} (another root: --root DIR or SA_ROOT=DIR)"


def _check(points: list[dict[str, Any]], where: str) -> None:
    """Raise RecordError for a point that is damaged, or there twice."""
    line_of: dict[Any, int] = {}
    for number, point in enumerate(points, 1):
        index, key, words = (point.get(k) for k in ("index", "run_id", "overrides"))
        right = isinstance(index, int) and isinstance(words, list)
        right = right and all(isinstance(word, str) for word in words or [])
        if not (right and isinstance(key, str) and re.fullmatch(r"\w+", key)):
            wanted = 'expected {"index": 0, "run_id": "0123456789", "overrides": ["key=value"]}'
            raise RecordError(f"{where}, line {number}: {wanted}. {_REMEDY}")
        for what in (index, key):
            if what in line_of:
                twice = f"{what} is on line {line_of[what]} already"
                raise RecordError(f"{where}, line {number}: {twice}. {_REMEDY}")
            line_of[what] = number
