"""Telling a person how a computation goes, such that a failure to tell never ends the computation.

Standard output may be on a full disk, closed, or a terminal that is gone. Whatever cannot be told
is dropped and noted in `LOST`, which the record of the run or sweep repeats.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

LOST: dict[str, str] = {}
"""What this process could not tell: by place ("standard output"), the reason."""

_STREAMS = {"stdout": "standard output", "stderr": "standard error"}


def lose(place: str, why: object) -> None:
    """Note that a place can no longer be told anything, with the reason; the first one counts."""
    LOST.setdefault(place, str(why) or type(why).__name__)


def quietly(place: str, act: Callable[[], object]) -> None:
    """Call ``act``; note an exception as the reason why nothing was told there."""
    try:
        act()
    except Exception as error:
        lose(place, f"{type(error).__name__}: {error}")


def note(text: str) -> None:
    """Print a note on standard error, whatever has become of it."""
    quietly("standard error", lambda: print(f"note: {text}", file=sys.stderr, flush=True))


note_once = cache(note)


def output_lost() -> str | None:
    """Return why standard output was lost; None where it was not, or its reader left by choice."""
    why = LOST.get(_STREAMS["stdout"])
    return None if why == os.strerror(errno.EPIPE) else why


def patient(hangup: bool = False) -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise.

    A descriptor among 0, 1 and 2 that is closed is opened on the null device: else the next file
    of a record would get its number, and what other code prints would go into that file.

    Args:
        hangup: True also lets the process and its children survive the end of their terminal.

    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name, place in _STREAMS.items():
        stream: Any = vars(sys)[name]
        if stream is None:
            lose(place, "it was closed")
            stream = open(os.devnull, "w")  # noqa: SIM115
        if not isinstance(stream, Patient):
            setattr(sys, name, Patient(stream, place))
    if hangup:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Patient:
    """A text stream that never raises: the first failure silences it, and is noted in `LOST`."""

    def __init__(self, stream: Any, place: str):
        self._stream, self._place = stream, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal; a closed one is none."""
        return not self._stream.closed and bool(self._try(self._stream.isatty))

    def write(self, text: str) -> int:
        """Write the text; signs that the stream's encoding lacks are written as escapes."""
        try:
            return self._stream.write(text) or 0
        except UnicodeEncodeError as error:
            text = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self._try(lambda: self._stream.write(text)) or 0
        except (OSError, ValueError) as error:
            self._silence(error)
            return 0

    def flush(self) -> None:
        """Pass on what was written; a closed stream holds nothing back."""
        if not self._stream.closed:
            self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (OSError, ValueError) as error:  # ValueError: I/O on a closed file
            self._silence(error)

    def _silence(self, error: Exception) -> None:
        if isinstance(error, BlockingIOError):  # a slow reader: this text is dropped, not the rest
            return
        lose(self._place, error.strerror if isinstance(error, OSError) else error)
        try:  # what is still buffered, and what other code writes, goes nowhere too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w")  # noqa: SIM115
