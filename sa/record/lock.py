"""Locks as files, and whether the process that holds one is alive.

A lock file holds the identity of its owner and a random token. It only needs that the file system
creates a name once, so it works on file systems without `flock`. A process on another machine is
judged by the times of its files, by the file server's clock.
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
"""The start of names of temporary files. `Record` deletes those that a kill left behind."""

OURS = "SA_JOB"
"""Environment variable with the number of a SLURM job, if our launcher started the job."""

_CLOCKS: dict[int, tuple[float, float]] = {}
"""Device -> the file server's clock minus our monotonic clock, and when that was measured."""


class Held(Exception):
    """Another process has the lock, and may be alive.

    Args:
        owner: the identity of that process, as far as it is known.
        age: seconds since its last sign of life.

    """

    def __init__(self, owner: Mapping[str, Any], age: float):
        super().__init__(f"process {owner.get('pid', '?')} on {owner.get('host', '?')} has it")
        self.owner, self.age = owner, age


@cache
def _machine() -> dict[str, Any]:
    """Return host, boot and process namespace: a process number is unique within the three."""
    boot = space = None
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    return {"host": os.uname().nodename, "boot": boot, "space": space}


def me() -> dict[str, Any]:
    """Return the identity of this process and of its SLURM job.

    ``began`` is the start of the process in clock ticks since the boot. The system may give a
    process number away again, but never the pair of number and start. ``job`` and ``array`` are
    SLURM's two names for a task of an array; ``restart`` counts how often it was requeued.
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
    """Return this process's SLURM job if our launcher started it; None for a job of the user's."""
    job = os.environ.get("SLURM_JOB_ID")
    return job if job and os.environ.get(OURS) == job else None


def _began(pid: int) -> int | None:
    """Return the start of a living process in ticks; 0 if it is dead, None if that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie is dead, although its parent has not waited for it yet.
    return 0 if fields[0] in "ZX" else int(fields[19])


def here(owner: Mapping[str, Any]) -> bool:
    """Return whether the process of an identity belongs to this machine."""
    machine = _machine()
    return "host" in owner and all(owner.get(k, v) == v for k, v in machine.items())


def there(owner: Mapping[str, Any]) -> bool | None:
    """Return whether a process is alive, judged by its identity; None if that is unknown."""
    own = me()
    if owner.get("job") and all(owner.get(k) == own.get(k) for k in ("job", "cluster")):
        if int(owner.get("restart") or 0) < own["restart"]:
            return False  # an earlier start of this job, which was requeued
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
    """Return whether a process may be alive: by its identity, else by the age of its files."""
    found = there(owner)
    return age(*signs) <= STALE if found is None else found


def age(*signs: Path) -> float:
    """Return the seconds since the youngest of the files was touched; infinity without files.

    Both times are the file server's, so that clocks of two machines are never compared.
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
    """Return the time of the clock that dates the files of a folder, found by touching a file.

    If nothing can be written there, return this machine's time. No lock can then be taken over.
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
    """Return the content of a lock; None if there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def owner(content: bytes) -> dict[str, Any]:
    """Return the identity in a lock; {} if it holds none yet."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def take(path: Path, *signs: Path) -> bytes:
    """Create a lock, or take over that of a dead process; return its content, which is unique.

    Two processes may find the same lock dead at the same time. Only one replaces it: the process
    that holds a second lock, named by the content of the dead one.

    Args:
        path: the lock.
        signs: other files that its owner touches while it lives.

    Raises:
        Held: its owner may be alive.
        OSError: nothing can be written there.

    """
    content = json.dumps(me() | {"token": os.urandom(8).hex()}).encode()
    while not _create(path, content):
        held = read(path)
        if held is None:  # released in between
            continue
        if alive(owner(held), path, *signs):
            raise Held(owner(held), age(path, *signs))
        right = path.with_name(f"{path.name}.{hashlib.sha256(held).hexdigest()[:12]}")
        token = take(right)
        try:
            if read(path) == held:
                temp = _temporary(path, content)
                os.replace(temp, path)
                return content
        finally:
            release(right, token)
    return content


def release(path: Path, content: bytes) -> None:
    """Delete a lock if it is still ours, which means that it has this content."""
    with contextlib.suppress(OSError):
        if read(path) == content:
            path.unlink()


def _temporary(path: Path, content: bytes) -> Path:
    temp = path.with_name(f"{TEMP}{os.getpid()}-{os.urandom(3).hex()}-{path.name}")
    temp.write_bytes(content)
    return temp


def _create(path: Path, content: bytes) -> bool:
    """Create a file that has its content from the start; return False if the file exists."""
    temp = _temporary(path, content)
    try:
        os.link(temp, path)
        return True
    except FileExistsError:
        return read(path) == content  # a file server may repeat a call if its answer got lost
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
    path: Path, content: bytes, stop: threading.Event, beat: float, look: Callable[[], object]
) -> None:
    """Touch a lock of ours again and again, as a sign of life, until ``stop`` is set.

    Args:
        path: the lock.
        content: what it holds while it is ours; a lock with other content is not touched.
        stop: ends this.
        beat: seconds between two touches.
        look: called after every touch.

    """
    while not stop.wait(beat):
        if read(path) == content:
            with contextlib.suppress(OSError):
                os.utime(path)
            look()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of this name inside the ``with``; other processes wait for it.

    It is a lock of the kernel (`flock`), which ends with the process. On a file system without
    `flock` it is a lock file, and a note says so.
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
    noted, stop = False, threading.Event()
    while True:
        try:
            content = take(path)
            break
        except Held as held:
            if not noted:
                telling.note(f"waiting for {path}: {held}")
            noted = True
            time.sleep(BEAT / 20)
    beat = threading.Thread(target=keep, args=(path, content, stop, BEAT, bool), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        release(path, content)
