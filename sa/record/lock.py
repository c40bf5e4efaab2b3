"""Who is alive and who holds what: processes by identity, then by the file server's clock.

A lock is a file that holds the identity of its owner and a token of its own. It needs nothing of
the file system but that a name is created once, so it works where `flock` does not.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sa.record import telling

STALE = 120.0  # seconds without a sign of life after which an unknown process counts as dead
BEAT = 5.0  # seconds between two signs of life
TEMP = ".tmp-"
"""How the names of temporary files begin; whoever opens a run's folder deletes those left over."""

OURS = "SA_JOB"
"""The environment variable in which a SLURM job that our launcher started has its own number."""

_CLOCKS: dict[int, tuple[float, float]] = {}
"""By device: the server's clock minus our monotonic one, and when that was measured."""


class Held(Exception):
    """Another process has the lock, and may be alive.

    owner: its identity, as far as it is known. age: seconds since its last sign of life.
    """

    def __init__(self, owner: Mapping[str, Any], age: float):
        super().__init__(f"process {owner.get('pid', '?')} on {owner.get('host', '?')} has it")
        self.owner, self.age = owner, age


@cache
def _machine() -> dict[str, Any]:
    """Host, boot and process namespace: together they say what a process number means."""
    boot = space = None
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    return {"host": os.uname().nodename, "boot": boot, "space": space}


def me() -> dict[str, Any]:
    """Return the identity of this process, and of the SLURM job it is in.

    ``began`` is the start of the process in clock ticks since the boot: a process number may be
    given to another process, the two together are not. ``job`` and ``array`` are the two names
    that SLURM has for a task of an array; ``restart`` counts how often it was requeued.
    """
    job = os.environ.get("SLURM_JOB_ID")
    array = [os.environ.get(f"SLURM_ARRAY_{x}_ID", "") for x in ("JOB", "TASK")]
    slurm = {
        "array": "_".join(array) if all(array) else None,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
    }
    own = {"pid": os.getpid(), "began": _began(os.getpid()), "job": job}
    return {**_machine(), **own, **(slurm if job else {})}


def our_job() -> str | None:
    """Return the SLURM job of this process if our launcher started it, not the user or Jupyter."""
    job = os.environ.get("SLURM_JOB_ID")
    return job if job and os.environ.get(OURS) == job else None


def _began(pid: int) -> int | None:
    """The start of a living process in ticks; 0 where it is dead, None where that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A killed process whose parent has not asked for it yet is dead all the same.
    return 0 if fields[0] in "ZX" else int(fields[19])


def here(owner: Mapping[str, Any]) -> bool:
    """Return whether a process number of that identity means a process of this machine."""
    mine = _machine()
    return "host" in owner and all(owner.get(k, mine[k]) == mine[k] for k in mine)


def there(owner: Mapping[str, Any]) -> bool | None:
    """Return whether a process is there, by its identity; None where that does not say."""
    mine = me()
    if owner.get("job") and all(owner.get(k) == mine.get(k) for k in ("job", "cluster")):
        if int(owner.get("restart") or 0) < mine["restart"]:
            return False  # this job before it was requeued
    if not here(owner):
        return None
    try:
        pid = int(owner["pid"])
        os.kill(pid, 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        return False
    except OSError:  # another user's process
        pass
    began = _began(pid)
    if began == 0:
        return False
    if began is None or owner.get("began") is None:  # no /proc, or a record of an older version
        return None
    return began == owner["began"]


def alive(owner: Mapping[str, Any], *signs: Path) -> bool:
    """Return whether a process may be there: by its identity, else by the age of its signs."""
    found = there(owner)
    return age(*signs) <= STALE if found is None else found


def age(*signs: Path) -> float:
    """Return the seconds since the youngest of the files was touched; infinite without any.

    Both times are the file server's: no two machines' clocks are compared.
    """
    touched = []
    for path in signs:
        with contextlib.suppress(OSError):
            touched.append((path.stat().st_mtime, path.parent))
    if not touched:
        return float("inf")
    last, folder = max(touched)
    return now(folder) - last


def now(folder: Path) -> float:
    """Return the time by the clock that dates the files of a folder: that of one touched now.

    Where nothing can be written, and so nothing taken over, by the clock of this machine.
    """
    device = folder.stat().st_dev
    known = _CLOCKS.get(device)
    if known is None or time.monotonic() - known[1] > BEAT:
        probe = folder / f"{TEMP}{os.getpid()}-{os.urandom(3).hex()}-clock"
        try:
            number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:
            return time.time()
        try:
            os.utime(probe)
            known = os.fstat(number).st_mtime - time.monotonic(), time.monotonic()
        except OSError:
            return time.time()
        finally:
            os.close(number)
            probe.unlink(missing_ok=True)
        _CLOCKS[device] = known
    return known[0] + time.monotonic()


def read(path: Path) -> bytes | None:
    """Return the content of a lock, None where there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def owner(content: bytes) -> dict[str, Any]:
    """Return the identity in a lock; empty where it is not, or not yet, written."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def take(path: Path, *signs: Path) -> bytes:
    """Create a lock, or take over that of a dead process; return its content, which is unique.

    The right to replace one dead lock belongs to whoever holds the lock named by its content:
    two processes that find it dead at the same time never both replace it.

    Args:
        path: the lock.
        signs: other files that its owner touches while it lives.

    Raises:
        Held: its owner may be alive.
        OSError: nothing can be written there.

    """
    mine = json.dumps(me() | {"token": os.urandom(8).hex()}).encode()
    while not _create(path, mine):
        theirs = read(path)
        if theirs is None:  # released in between
            continue
        if alive(owner(theirs), path, *signs):
            raise Held(owner(theirs), age(path, *signs))
        right = path.with_name(f"{path.name}.{hashlib.sha256(theirs).hexdigest()[:12]}")
        token = take(right)
        try:
            if read(path) == theirs:
                temp = _temporary(path, mine)
                os.replace(temp, path)
                return mine
        finally:
            release(right, token)
    return mine


def release(path: Path, mine: bytes) -> None:
    """Delete a lock if it is still ours."""
    with contextlib.suppress(OSError):
        if read(path) == mine:
            path.unlink()


def _temporary(path: Path, content: bytes) -> Path:
    temp = path.with_name(f"{TEMP}{os.getpid()}-{os.urandom(3).hex()}-{path.name}")
    temp.write_bytes(content)
    return temp


def _create(path: Path, content: bytes) -> bool:
    """Create a file with its content at once, by a hard link; False where there is one."""
    temp = _temporary(path, content)
    try:
        os.link(temp, path)
        return True
    except FileExistsError:
        return read(path) == content  # a server may repeat a call whose answer was lost
    except OSError:  # no hard links here: the file is empty for an instant
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return read(path) == content
        try:
            os.write(number, content)
        except OSError:  # a full disk
            path.unlink()
            raise
        finally:
            os.close(number)
        return True
    finally:
        temp.unlink(missing_ok=True)


def keep(
    path: Path, mine: bytes, stop: threading.Event, beat: float, look: Callable[[], object]
) -> None:
    """Touch a lock of ours every ``beat`` seconds until told to stop; a stolen one is not ours.

    look: called after every sign of life.
    """
    while not stop.wait(beat):
        if read(path) == mine:
            with contextlib.suppress(OSError):
                os.utime(path)
            look()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of this name for a while; others wait.

    It is the kernel's, which ends with its process. A file system without `flock` gets a lock file
    beside it, and the user a note.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            telling.note_once(
                f"{path.parent}: this file system has no flock ({error.strerror}); a lock file is "
                f"used instead, and a driver killed on another machine counts as dead after "
                f"{STALE:.0f} s"
            )
            stack.enter_context(_holding(path.with_name(f"{path.name}.lock")))
        yield


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[None]:
    told, stop = False, threading.Event()
    while True:
        try:
            mine = take(path)
            break
        except Held as held:
            if not told:
                telling.note(f"waiting for {path}: {held}")
            told = True
            time.sleep(BEAT / 20)
    beat = threading.Thread(target=keep, args=(path, mine, stop, BEAT, bool), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        release(path, mine)
