"""Atomic writes, JSON and JSON lines, and the errors about a record's files."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sa.record.lock import TEMP


class RecordError(Exception):
    """A problem with the files of a run or sweep; the message names the file and the remedy."""


class Busy(RecordError):
    """Another process computes this run, or has just finished it."""


class Missing(RecordError):
    """There is no sweep or run of that name; the message lists those that exist."""


class Unwritable(RecordError):
    """Nothing can be written below the root; nothing was written."""


def write_atomic(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let ``write`` write a temporary file in the same folder, then rename it to ``path``.

    If that fails, the temporary file is deleted and ``path`` stays as it was.
    """
    temp = path.with_name(f"{TEMP}{os.getpid()}-{os.urandom(3).hex()}-{path.name}")
    try:
        write(temp)
        if sync:
            with temp.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError):
            raise unwritten(path, error) from error
        raise


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write text, atomically."""
    write_atomic(path, lambda temp: temp.write_bytes(text.encode()), sync)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically; a number that is not finite becomes null."""
    write_text(path, json.dumps(cleaned(value), indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file; None if the file is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def unwritten(path: Path, error: OSError) -> RecordError:
    """Return the error to raise if a file of a record could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space" if full else "make it writable"
    return RecordError(
        f"{path}: {error.strerror or error}. The record up to here is complete: {remedy}, then "
        "repeat the command to go on from there, or name another root: root=DIR or SA_ROOT=DIR"
    )


def cleaned(value: Any) -> Any:
    """Return a value as JSON can hold it: plain numbers and lists, null for NaN and infinity."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(k): cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [cleaned(v) for v in value]
    if hasattr(value, "tolist"):  # a number or array of numpy or torch; neither is imported here
        return cleaned(value.tolist())
    return str(value)


_ENCODER = json.JSONEncoder(allow_nan=False, default=cleaned, separators=(",", ":"))


def json_line(row: dict[str, Any]) -> bytes:
    """Return a flat row as a line of JSON; raise RecordError if one of its values is a mapping."""
    for key, value in row.items():
        if isinstance(value, dict):
            raise RecordError(f"row key '{key}' is a mapping; rows are flat: write '{key}/...'")
    try:
        text = _ENCODER.encode(row)
    except ValueError:  # a number that is not finite, which is rare
        text = _ENCODER.encode(cleaned(row))
    return (text + "\n").encode()


def json_lines(path: Path, remedy: str, torn: bool = False) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a file, and how many bytes they take.

    Args:
        path: the file; one that is missing has no rows.
        remedy: what to do about a damaged line, for the error.
        torn: true drops a last line that cannot be read, because a kill may have cut it short.

    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    if not lines[-1]:
        lines.pop()
    elif torn:  # no newline: the last write was cut short
        lines.pop()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a mapping")
        except ValueError as error:
            if torn and number == len(lines):
                lines.pop()
                break
            message = f"{path}, line {number}: not a line of JSON ({error}). {remedy}"
            raise RecordError(message) from error
        rows.append(row)
    return rows, sum(map(len, lines)) + len(lines)


def make_folder(folder: Path, root: Path | str) -> None:
    """Make a folder below a root; raise Unwritable if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unrooted(root, error) from error


def unrooted(root: Path | str, error: OSError) -> Unwritable:
    """Return the error to raise if nothing can be written below a root."""
    return Unwritable(
        f"root={root}: cannot write there ({error.strerror}). Name a folder that you can write "
        "to: root=DIR on the command line, or SA_ROOT=DIR in the environment"
    )


def remedy(folder: Path) -> str:
    """Return what to do about a damaged line in a file of a folder."""
    return f"Delete that line, or delete {folder} to compute the run again"
