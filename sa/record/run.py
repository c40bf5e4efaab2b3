"""The run folder: a run is its configuration, the folder named by it is the only truth about it.

Readers never see half a file: everything is written beside its place and renamed, rows are
appended by one write each, and ``result.json`` comes last, so that it exists means done.
"""

import contextlib
import errno
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sa.record import lock, telling
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
from sa.record.identity import current, identity, run_id
from sa.record.lock import BEAT, STALE, TEMP

_OVER = ("failed", "skipped", "interrupted")
_CANCEL = "cancel"
"""The file in a run's folder that asks its process to end: it holds the lock of that process."""
CANCELLED = "cancelled by sa.sweep cancel"
"""The reason in the status of a run that `sa.sweep cancel` has ended."""
SNAPSHOTS = "snapshots"
"""The folder of a run's kept points, ``<step>.npz``: ``params/NAME``, ``buffers/NAME`` and
``redundant``, the names of parameters that the loss cannot depend on."""
SCHEMA = 1
"""Of what a run folder holds; written to its meta.json."""


def _acquire(folder: Path) -> bytes:
    """Take the lock of a run; its content, which is unique. Raises Busy."""
    try:
        return lock.take(folder / "lock", folder / "status.json")
    except lock.Held as held:
        theirs = held.owner
        job = f", job {theirs['job']}" if theirs.get("job") else ""
        raise Busy(
            f"run {folder.name} is being computed by process {theirs.get('pid', '?')} on "
            f"{theirs.get('host', '?')}{job}, last seen {max(held.age, 0):.0f} s ago; wait for "
            "it, or stop it and repeat the command (a dead process is noticed at once on its own "
            f"machine, elsewhere within {STALE:.0f} s)"
        ) from held


class Record:
    """The folder of one run, held by this process alone; use it as a context manager.

    folder, id: where and what. config, meta: as written. status: what status.json says.
    """

    def __init__(self, folder: Path, config: dict[str, Any], meta: dict[str, Any], taken: bytes):
        self.folder, self.id, self.config = folder, folder.name, config
        self._lock, self._step, self._beaten = taken, None, time.monotonic()
        if read_result(folder.parent.parent, self.id) is not None:
            again = f"to compute it again, delete {folder}"
            raise Busy(f"run {self.id} has just been finished by another process; {again}")
        for where in (folder, folder / SNAPSHOTS):
            for stale in where.glob(f"{TEMP}*"):
                stale.unlink(missing_ok=True)
        # Rows go on where a checkpoint does; without one the run starts again from nothing.
        path = folder / "metrics.jsonl"
        good = self._scan()[1] if self.checkpoint else 0
        commits = ((read_json(folder / "meta.json") or {}).get("commits") or []) if good else []
        commits = list(dict.fromkeys([*commits, meta.get("commit")]))
        hashed = identity(config)
        self.meta = {**meta, "commits": commits, "schema": SCHEMA, "hashed": hashed}
        write_text(folder / "config.yaml", _text(config), sync=False)
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
        beat = (folder / "lock", taken, self._stop, BEAT, self._look)
        threading.Thread(target=lock.keep, args=beat, daemon=True, name=f"beat {self.id}").start()

    @classmethod
    def open(cls, root: Path | str, config: dict[str, Any], meta: dict[str, Any]) -> "Record":
        """Take the run of ``config`` under ``root``; Busy where another process has it."""
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
        """Add one flat row to metrics.jsonl; it survives the process from here on."""
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
        """The rows so far."""
        return self._scan()[0]

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: they are about to be computed again."""
        kept = [r for r in self.rows() if r.get("step", step) <= step]
        path = self.folder / "metrics.jsonl"
        content = b"".join(map(json_line, kept))
        write_atomic(path, lambda temp: temp.write_bytes(content))
        self._rows.close()
        self._rows, self._size = path.open("ab", buffering=0), len(content)

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint saved, if there is one."""
        path = self.folder / "checkpoint.pt"
        return path if path.exists() else None

    def save(self, write: Callable[[Path], object], name: str = "checkpoint.pt") -> None:
        """Replace the checkpoint by what ``write`` puts at the path it is given, or keep it."""
        self._check()
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        os.fsync(self._rows.fileno())  # a checkpoint never outlives the rows before it
        try:
            write_atomic(path, write)
        except RuntimeError as error:  # what torch raises on a full disk
            disk = os.statvfs(self.folder)
            full = disk.f_bavail * disk.f_frsize < 1 << 20
            code = errno.ENOSPC if full else errno.EIO
            lost = OSError(
                code, f"the checkpoint could not be written ({str(error).splitlines()[0]})"
            )
            raise unwritten(path, lost) from error
        self._write_status()

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result: the run is done. Returns it as readers will find it."""
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
        """End without a result: failed, skipped or interrupted, with the end of the reason."""
        if state not in _OVER:
            raise ValueError(f"state={state}: expected one of {', '.join(_OVER)}")
        if not self._owned():  # whoever took the run over has the say
            return
        past = _past(load_status(self.folder))  # somebody took this process for dead, and said so
        self.status |= {**past, "state": state, "error": error.strip()[-4000:]}
        try:
            self._write_status()
        except RecordError:  # a full disk: at least nobody takes this run for alive
            with contextlib.suppress(OSError):
                os.utime(self.folder / "status.json", (0, 0))

    def close(self) -> None:
        """Let go of the run; one that has not ended is left interrupted."""
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
        """Whether `ask_to_end` was called for this process."""
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

    def _look(self) -> None:
        """End this process, as the command at its terminal would, where it was asked to."""
        if self.cancelled and callable(signal.getsignal(signal.SIGUSR1)):
            os.kill(os.getpid(), signal.SIGUSR1)


def ask_to_end(folder: Path) -> str | None:
    """Ask the process that computes a run to end, wherever it runs: it looks every few seconds.

    One of this machine is sent SIGTERM as well. Returns its host; None where no process has the
    run.
    """
    if state(folder) != "running":
        return None
    theirs = lock.read(folder / "lock") or b""
    owner = lock.owner(theirs) or load_status(folder)
    if theirs:
        write_atomic(folder / _CANCEL, lambda temp: temp.write_bytes(theirs), sync=False)
    if lock.here(owner) and lock.there(owner) is not False:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(owner["pid"]), signal.SIGTERM)
    return str(owner.get("host"))


def freeze(root: Path | str, config: dict[str, Any]) -> Path:
    """Put the configuration of a run that is still to come into its folder; the folder.

    One frozen before, with other bookkeeping (where the data lie), is replaced.
    """
    folder = Path(root).expanduser() / "runs" / run_id(config)
    make_folder(folder, root)
    path, text = folder / "config.yaml", _text(config)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text, sync=False)
    return folder


def _text(config: dict[str, Any]) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = json.loads(json.dumps(config))  # no tuples, and no object twice: no YAML anchors
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def load_status(folder: Path) -> dict[str, Any]:
    """What status.json says; empty where it says nothing."""
    return read_json(folder / "status.json") or {}


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, running or not."""
    return json_lines(folder / "metrics.jsonl", remedy(folder), torn=True)[0]


def read_result(root: Path | str, run: str) -> dict[str, Any] | None:
    """The result of a run, None while there is none."""
    return read_json(Path(root).expanduser() / "runs" / run / "result.json")


def snapshots(folder: Path, before: int | None = None) -> dict[int, Path]:
    """Step -> file of every point that a finished run kept; raises RecordError where one is gone.

    Of a run that kept none: empty. before: those up to this step, of a run that goes on.
    """
    config = read_json(folder / "meta.json") or {}
    every = (config.get("hashed") or {}).get("snapshot_every")
    result = read_json(folder / "result.json")
    if not every:
        return {}
    if before is not None:
        steps = list(range(0, before, every))
    elif result is None:
        raise RecordError(f"run {folder.name} is not done; repeat its command to go on")
    else:
        last = int(result["step"])
        steps = sorted({*range(0, last + 1, every), *([] if "diverged" in result else [last])})
    found = {step: folder / SNAPSHOTS / f"{step:09d}.npz" for step in steps}
    gone = [step for step, path in found.items() if not path.exists()]
    if gone:
        told = ", ".join(map(str, gone[:5])) + (", ..." if len(gone) > 5 else "")
        raise RecordError(
            f"run {folder.name} lacks {len(gone)} of its {len(steps)} snapshots, of step {told}; "
            f"delete {folder} and repeat its command to compute it anew"
        )
    return found


def state(folder: Path) -> str:
    """done, diverged, failed, skipped, interrupted, running, lost (resumable) or pending."""
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
    # A process that could not write how this run ended is alive, but computes another one.
    held = (folder / "lock").exists() or lock.age(folder / "status.json") <= STALE
    return "running" if held else "lost"


def signs(folder: Path) -> tuple[Path, Path]:
    """The files of a run that its process touches while it lives."""
    return folder / "status.json", folder / "lock"


def reason(folder: Path, **who: Any) -> str | None:
    """Why a run ended, if it is known of the process or job that ``who`` identifies."""
    status = load_status(folder)
    mine = all(status.get(key) == value for key, value in who.items())
    return str(status.get("error")) if mine and status.get("state") in _OVER else None


def mark(root: Path | str, run: str, reason: str, state: str = "failed", **who: Any) -> str:
    """Note that a run whose process is gone ended without a result; returns the reason.

    A reason recorded before stays in the list ``past``. who: the process or job that it is of.
    """
    folder = Path(root).expanduser() / "runs" / run
    before = load_status(folder)
    if before.get("state") == state and before.get("error") == reason:
        return reason
    status = {"started": time.time(), **before, **who, **_past(before)}
    write_json(folder / "status.json", status | {"state": state, "error": reason})
    return reason


def _past(status: dict[str, Any]) -> dict[str, Any]:
    """How a run ended before, each time that it did: state, the end of the reason, and where."""
    past = list(status.get("past") or [])
    if status.get("state") in _OVER:
        about = {k: status[k] for k in ("state", "host", "pid", "array", "job") if k in status}
        past.append(about | {"error": str(status.get("error"))[-400:]})
    return {"past": past} if past else {}


def say_untold(path: Path) -> None:
    """Add to a JSON file, of a run or a sweep, what this process could not tell; never raises."""
    if telling.LOST:
        with contextlib.suppress(RecordError):
            write_json(path, (read_json(path) or {}) | {"untold": dict(telling.LOST)})


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run with the class names of today; {} if there is none."""
    import yaml

    path = folder / "config.yaml"
    what = f"delete {folder} and repeat the command that made it"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(path.read_bytes(), loader) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not YAML; {what}") from error
    if not isinstance(config, dict):
        raise RecordError(f"{path}: not settings by their names; {what}")
    named: dict[str, Any] = current(config)
    named.pop("full", None)  # the words of size=full, in records of before
    return named
