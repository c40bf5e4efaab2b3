"""The folder of a run: `Record` writes it, functions read it. It is the only truth about the run.

Readers never see half a file: each file is written under another name and then renamed, and each
row is appended by one write. ``result.json`` is written last: if it exists, the run is done.
"""

import contextlib
import errno
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sa.record import lock, snapshots, telling
from sa.record.config import config_text
from sa.record.files import (
    Busy,
    RecordError,
    cleaned,
    json_line,
    json_lines,
    make_folder,
    read_json,
    remedy,
    unrooted,
    unwritten,
    write_atomic,
    write_json,
    write_text,
)
from sa.record.identity import identity, run_id
from sa.record.lock import BEAT, STALE, TEMP

_OVER = ("failed", "skipped", "interrupted")
_CANCEL = "cancel"
"""The file in a run's folder that asks its process to end. It holds the lock of that process."""
CANCELLED = "cancelled by sa.sweep cancel"
"""The reason in the status of a run that `sa.sweep cancel` ended."""
SCHEMA = 1
"""The version of the files in a run's folder; written to its meta.json."""


def _acquire(folder: Path) -> bytes:
    """Take the lock of a run and return its content, which is unique; raise Busy if it is held."""
    try:
        return lock.take(folder / "lock", folder / "status.json")
    except lock.Held as held:
        owner = held.owner
        job = f", job {owner['job']}" if owner.get("job") else ""
        raise Busy(
            f"run {folder.name} is being computed by process {owner.get('pid', '?')} on "
            f"{owner.get('host', '?')}{job}, last seen {max(held.age, 0):.0f} s ago; wait for "
            "it, or stop it and repeat the command (a dead process is noticed at once on its own "
            f"machine, elsewhere within {STALE:.0f} s)"
        ) from held


class Record:
    """The folder of one run, held by this process alone; use it as a context manager.

    Args:
        folder: the run's folder.
        config: its configuration; written to config.yaml.
        meta: facts about the code and the machine; written to meta.json.
        taken: the content of the run's lock, which this process holds.

    """

    def __init__(self, folder: Path, config: dict[str, Any], meta: dict[str, Any], taken: bytes):
        self.folder, self.id, self.config = folder, folder.name, config
        self._lock, self._step, self._beaten = taken, None, time.monotonic()
        if read_result(folder.parent.parent, self.id) is not None:
            again = f"to compute it again, delete {folder}"
            raise Busy(f"run {self.id} has just been finished by another process; {again}")
        for where in (folder, folder / snapshots.FOLDER):
            for stale in where.glob(f"{TEMP}*"):
                stale.unlink(missing_ok=True)
        # With a checkpoint the rows so far are kept; without one the run starts at step 0.
        path = folder / "metrics.jsonl"
        good = self._scan()[1] if self.checkpoint else 0
        commits = ((read_json(folder / "meta.json") or {}).get("commits") or []) if good else []
        commits = list(dict.fromkeys([*commits, meta.get("commit")]))
        hashed = identity(config)
        self.meta = {**meta, "commits": commits, "schema": SCHEMA, "hashed": hashed}
        write_text(folder / "config.yaml", config_text(config), sync=False)
        write_json(folder / "meta.json", self.meta)
        before = load_status(folder)
        self.status: dict[str, Any] = {
            "state": "running", "step": None, "total": config.get("steps"),
            "restarts": int(before.get("restarts") or 0) + 1 if before else 0,
            "started": time.time(), **lock.me(), "error": None, **_past(before),
        }  # fmt: skip
        self._write_status()
        self._size = good
        self._rows = path.open("ab", buffering=0)
        self._rows.truncate(good)
        self._stop = threading.Event()
        beat = (folder / "lock", taken, self._stop, BEAT, self._end_if_cancelled)
        threading.Thread(target=lock.keep, args=beat, daemon=True, name=f"beat {self.id}").start()

    @classmethod
    def open(cls, root: Path | str, config: dict[str, Any], meta: dict[str, Any]) -> "Record":
        """Take the run of ``config`` below ``root``; raise Busy if another process has it."""
        folder = Path(root).expanduser() / "runs" / run_id(config)
        make_folder(folder, root)
        try:
            taken = _acquire(folder)
        except OSError as error:
            raise unrooted(root, error) from error
        try:
            return cls(folder, config, meta, taken)
        except BaseException as error:
            lock.release(folder / "lock", taken)
            if isinstance(error, OSError):
                raise unwritten(folder, error) from error
            raise

    def append(self, row: dict[str, Any]) -> None:
        """Add one flat row to metrics.jsonl; a row that was added survives a kill."""
        line = json_line(row)
        try:
            if self._rows.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._rows.truncate(self._size)
            raise unwritten(self.folder / "metrics.jsonl", error) from error
        self._size += len(line)
        self._step = row.get("step", self._step)
        if time.monotonic() - self._beaten > BEAT:
            self._write_status()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows so far."""
        return self._scan()[0]

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``, which are about to be computed again."""
        rows = [r for r in self.rows() if r.get("step", step) <= step]
        path = self.folder / "metrics.jsonl"
        content = b"".join(map(json_line, rows))
        write_atomic(path, lambda temp: temp.write_bytes(content))
        self._rows.close()
        self._rows, self._size = path.open("ab", buffering=0), len(content)

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint; None if there is none."""
        path = self.folder / "checkpoint.pt"
        return path if path.exists() else None

    def save(self, write: Callable[[Path], object], name: str = "checkpoint.pt") -> None:
        """Replace a file of the run by what ``write`` writes to a path; if it fails, keep the old.

        Args:
            write: writes the file, to the path that it gets.
            name: the name of the file in the run's folder; the checkpoint by default.

        """
        self._check()
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        os.fsync(self._rows.fileno())  # the rows before a checkpoint reach the disk first
        try:
            write_atomic(path, write)
        except RuntimeError as error:  # torch raises it on a full disk
            disk = os.statvfs(self.folder)
            full = disk.f_bavail * disk.f_frsize < 1 << 20
            why = f"the checkpoint could not be written ({str(error).splitlines()[0]})"
            code = errno.ENOSPC if full else errno.EIO
            raise unwritten(path, OSError(code, why)) from error
        self._write_status()

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result, so that the run is done; return it as readers will find it."""
        self._check()
        os.fsync(self._rows.fileno())
        self.status["state"] = "done"
        try:
            self._write_status()
            write_json(self.folder / "result.json", result)
        except BaseException:
            self.status["state"] = "running"
            raise
        clean: dict[str, Any] = cleaned(result)
        return clean

    def fail(self, error: str, state: str = "failed") -> None:
        """Record that the run ended without a result.

        Args:
            error: the reason; the last 4000 letters of it are kept.
            state: failed, skipped or interrupted.

        """
        if state not in _OVER:
            raise ValueError(f"state={state}: expected one of {', '.join(_OVER)}")
        if not self._owned():  # another process has taken the run over, and records its end
            return
        past = _past(load_status(self.folder))  # another process may have recorded us as dead
        self.status |= {**past, "state": state, "error": error.strip()[-4000:]}
        try:
            self._write_status()
        except RecordError:  # on a full disk, make the old file at least look dead
            with contextlib.suppress(OSError):
                os.utime(self.folder / "status.json", (0, 0))

    def close(self) -> None:
        """Release the run; record it as interrupted if it has not ended."""
        if self._stop.is_set():
            return
        if self.status["state"] == "running":
            self.fail("it was closed before it ended", state="interrupted")
        self._stop.set()
        self._rows.close()
        if self.cancelled:
            (self.folder / _CANCEL).unlink(missing_ok=True)
        lock.release(self.folder / "lock", self._lock)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and self.status["state"] == "running":
            state = "failed" if isinstance(error, Exception) else "interrupted"
            self.fail("".join(traceback.format_exception(error)), state)
        self.close()

    def _scan(self) -> tuple[list[dict[str, Any]], int]:
        return json_lines(self.folder / "metrics.jsonl", remedy(self.folder), torn=True)

    @property
    def cancelled(self) -> bool:
        """True if `ask_to_end` was called for this process."""
        return lock.read(self.folder / _CANCEL) == self._lock

    def _owned(self) -> bool:
        return lock.read(self.folder / "lock") == self._lock

    def _check(self) -> None:
        if not self._owned():
            raise RecordError(
                f"run {self.id} was taken over by another process while this one gave no sign of "
                f"life for {STALE:.0f} s; this one stops, nothing is lost"
            )

    def _write_status(self) -> None:
        self._check()
        self._beaten = time.monotonic()
        self.status |= {"step": self._step, "heartbeat": time.time()}
        self.status |= {"untold": dict(telling.LOST)} if telling.LOST else {}
        write_json(self.folder / "status.json", self.status)

    def _end_if_cancelled(self) -> None:
        """Send SIGUSR1 to this process if the run was cancelled."""
        if self.cancelled and callable(signal.getsignal(signal.SIGUSR1)):
            os.kill(os.getpid(), signal.SIGUSR1)


def ask_to_end(folder: Path) -> str | None:
    """Ask the process that computes a run to end; return its host, None if there is no process.

    The process looks for the request every few seconds, on whatever machine it is. A process of
    this machine gets SIGTERM too.
    """
    if state(folder) != "running":
        return None
    held = lock.read(folder / "lock") or b""
    owner = lock.owner(held) or load_status(folder)
    if held:
        write_atomic(folder / _CANCEL, lambda temp: temp.write_bytes(held), sync=False)
    if lock.here(owner) and lock.there(owner) is not False:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(owner["pid"]), signal.SIGTERM)
    return str(owner.get("host"))


def load_status(folder: Path) -> dict[str, Any]:
    """Return the content of status.json; {} if it is missing or damaged."""
    return read_json(folder / "status.json") or {}


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, which may be running."""
    return json_lines(folder / "metrics.jsonl", remedy(folder), torn=True)[0]


def read_result(root: Path | str, run: str) -> dict[str, Any] | None:
    """Return the result of a run; None while there is none."""
    return read_json(Path(root).expanduser() / "runs" / run / "result.json")


def state(folder: Path) -> str:
    """Return done, diverged, failed, skipped, interrupted, running, lost or pending.

    A lost run has no process any more, and no end in its record. A pending run has not begun.
    """
    result = read_json(folder / "result.json")
    if result is not None:
        return "diverged" if result.get("status") == "diverged" else "done"
    status = load_status(folder)
    if not status:
        return "pending"
    if status.get("state") in _OVER:
        return str(status["state"])
    if status.get("state") != "running" or not lock.alive(status, *signs(folder)):
        return "lost"
    # The process may compute another run now, after a full disk kept it from recording this end.
    held = (folder / "lock").exists() or lock.age(folder / "status.json") <= STALE
    return "running" if held else "lost"


def signs(folder: Path) -> tuple[Path, Path]:
    """Return the files of a run that its process touches while it lives."""
    return folder / "status.json", folder / "lock"


def reason(folder: Path, **who: Any) -> str | None:
    """Return why a run ended, if its last process or job is ``who``, e.g. job="77"; else None."""
    status = load_status(folder)
    same = all(status.get(key) == value for key, value in who.items())
    return str(status.get("error")) if same and status.get("state") in _OVER else None


def mark(root: Path | str, run: str, reason: str, state: str = "failed", **who: Any) -> str:
    """Record that a run, whose process is gone, ended without a result; return the reason.

    An older reason stays in the list ``past``.

    Args:
        root: the folder of all runs and sweeps.
        run: the id of the run.
        reason: why it ended.
        state: failed, skipped or interrupted.
        who: identity of the process or job that computed it.

    """
    folder = Path(root).expanduser() / "runs" / run
    before = load_status(folder)
    if before.get("state") == state and before.get("error") == reason:
        return reason
    status = {"started": time.time(), **before, **who, **_past(before)}
    write_json(folder / "status.json", status | {"state": state, "error": reason})
    return reason


def _past(status: dict[str, Any]) -> dict[str, Any]:
    """Return {"past": [state, reason and process of every earlier end]}; {} if there was none."""
    past = list(status.get("past") or [])
    if status.get("state") in _OVER:
        about = {k: status[k] for k in ("state", "host", "pid", "array", "job") if k in status}
        past.append(about | {"error": str(status.get("error"))[-400:]})
    return {"past": past} if past else {}


def record_lost_output(path: Path) -> None:
    """Add `telling.LOST`, the output that this process lost, to a JSON file; never raise."""
    if telling.LOST:
        with contextlib.suppress(RecordError):
            write_json(path, (read_json(path) or {}) | {"untold": dict(telling.LOST)})
