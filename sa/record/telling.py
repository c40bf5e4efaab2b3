"""Output for a person: notes, progress bars, and streams that never raise.

Standard output may lead to a full disk, or to a terminal that is closed. Output that fails is
dropped, so that it never ends a computation. `LOST` says what was dropped; the record of the run or
sweep repeats it.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, TextIO

LOST: dict[str, str] = {}
"""Place where output of this process was lost, e.g. "standard output" -> the reason."""

_STREAMS = {"stdout": "standard output", "stderr": "standard error"}


def lose(place: str, why: object) -> None:
    """Add a place and the reason to `LOST`; an earlier reason stays."""
    LOST.setdefault(place, str(why) or type(why).__name__)


def quietly(place: str, act: Callable[[], object]) -> None:
    """Call ``act``; add an exception to `LOST` instead of raising it."""
    try:
        act()
    except Exception as error:
        lose(place, f"{type(error).__name__}: {error}")


def note(text: str) -> None:
    """Print a note on standard error; never raise."""
    quietly("standard error", lambda: print(f"note: {text}", file=sys.stderr, flush=True))


note_once = cache(note)


def output_lost() -> str | None:
    """Return why standard output was lost; None if it was not, or if its reader closed it."""
    why = LOST.get(_STREAMS["stdout"])
    return None if why == os.strerror(errno.EPIPE) else why


@cache
def _nowhere() -> TextIO:
    """Return a stream that drops what is written."""
    return open(os.devnull, "w")  # noqa: SIM115


def patient(hangup: bool = False) -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise.

    If descriptor 0, 1 or 2 is closed, it is opened on the null device. Otherwise the next file of a
    record would get its number, and output of other code would go into that file.

    Args:
        hangup: true also lets the process and its children survive the end of their terminal.

    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, place in _STREAMS.items():
        stream: Any = vars(sys)[name]
        if stream is None:
            lose(place, "it was closed")
            stream = _nowhere()
        if not isinstance(stream, Patient):
            setattr(sys, name, Patient(stream, place))
    if hangup:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Patient:
    """A text stream that never raises: the first failure silences it and is added to `LOST`."""

    def __init__(self, stream: Any, place: str):
        self._stream, self._place = stream, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # everything else comes from the stream

    def isatty(self) -> bool:
        """Return whether the stream is an open terminal."""
        return not self._stream.closed and bool(self._try(self._stream.isatty))

    def write(self, text: str) -> int:
        """Write the text; letters that the stream's encoding lacks become escapes."""
        try:
            return self._stream.write(text) or 0
        except UnicodeEncodeError as error:
            text = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self._try(lambda: self._stream.write(text)) or 0
        except (OSError, ValueError) as error:
            self._silence(error)
            return 0

    def flush(self) -> None:
        """Flush the stream, unless it is closed."""
        if not self._stream.closed:
            self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (OSError, ValueError) as error:  # ValueError: I/O on a closed file
            self._silence(error)

    def _silence(self, error: Exception) -> None:
        if isinstance(error, BlockingIOError):  # a slow reader: only this text is dropped
            return
        lose(self._place, error.strerror if isinstance(error, OSError) else error)
        try:  # drop also what is buffered, and what other code writes
            os.dup2(_nowhere().fileno(), self._stream.fileno())
        except (OSError, ValueError):
            self._stream = _nowhere()


_DISPLAY: list[Any] = []
"""The bars on the screen: one display of rich, or none; two would draw over each other."""


class Bar:
    """A progress bar where the stream is a terminal, nothing elsewhere; it never raises.

    Use it as a context manager, or call `close`. A bar that begins while another one is on the
    screen is drawn below it, in the same display.

    Args:
        description: what it counts, shown before the bar.
        total: how many there are; None if that is not known yet.
        stream: where it is drawn; null for sys.stdout.
        of_bytes: true shows done and total as sizes of files, e.g. 1.2/5.0 MB.

    """

    def __init__(
        self,
        description: str,
        total: float | None = None,
        stream: Any = None,
        of_bytes: bool = False,
    ):
        self.total = total
        self._bar: Any = None
        self._first = False
        stream = stream or sys.stdout
        if stream.isatty():
            quietly("progress bar", lambda: self._start(description, stream, of_bytes))

    def _start(self, description: str, stream: Any, of_bytes: bool) -> None:
        if _DISPLAY:
            self._task = _DISPLAY[0].add_task(description, total=self.total)
            self._bar = _DISPLAY[0]
            return
        from rich import progress
        from rich.console import Console

        count = progress.DownloadColumn() if of_bytes else progress.MofNCompleteColumn()
        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            count,
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(file=stream, soft_wrap=True),
        )
        self._task = bar.add_task(description, total=self.total)
        bar.start()
        _DISPLAY.append(bar)
        self._bar, self._first = bar, True

    @property
    def drawn(self) -> bool:
        """True if a bar is drawn."""
        return self._bar is not None

    def update(self, done: float, description: str | None = None) -> None:
        """Show how many are done, and a new description if there is one."""
        self._quietly(
            lambda bar: bar.update(
                self._task, completed=done, total=self.total, description=description
            )
        )

    def print(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._quietly(lambda bar: bar.console.print(line, highlight=False, markup=False))

    def close(self) -> None:
        """End the bar; the display ends with the bar that began it."""
        if self._first:
            _DISPLAY.clear()
            self._quietly(lambda bar: bar.stop())
        else:
            self._quietly(lambda bar: bar.remove_task(self._task))
        self._bar, self._first = None, False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _quietly(self, act: Callable[[Any], object]) -> None:
        if self._bar is not None:
            quietly("progress bar", lambda: act(self._bar))
