"""Locks: a holder is alive by its process identity, else by the clock of the file server."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.launch import driver
from sa.record import files, lock, sweep, telling
from sa.record import run as record
from sa.record.config import write_config
from sa.record.run import Record

CONFIG = {"seed": 0, "steps": 10}
HERE = os.uname().nodename
ELSEWHERE = {"host": "another", "boot": "b", "space": "s"}
DEAD = 2**22 + 1


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(lock, "_CLOCKS", {})


def touched(path: Path, seconds: float) -> None:
    """Set a file's time to so many seconds before now, by the clock of its file system."""
    then = lock.now(path.parent) - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("skew", [-1e6, -300, 300, 1e6])
def test_a_live_run_is_not_taken_over_by_a_process_with_another_clock(tmp_path, monkeypatch, skew):
    clock = time.time
    with Record.open(tmp_path, CONFIG, {}) as kept:
        monkeypatch.setattr(time, "time", lambda: clock() + skew)
        for seconds in (0, 10_000):  # its last sign of life does not matter
            touched(kept.folder / "lock", seconds)
            touched(kept.folder / "status.json", 0)
            with pytest.raises(files.Busy, match=f"process {os.getpid()} on {HERE}"):
                Record.open(tmp_path, CONFIG, {})
            assert record.state(kept.folder) == "running"


@pytest.mark.parametrize("skew", [-1e6, 0, 1e6])
@pytest.mark.parametrize(("silent", "live"), [(10, True), (130, False)])
def test_a_process_of_another_machine_is_judged_by_the_file_servers_clock(
    tmp_path, monkeypatch, skew, silent, live
):
    clock = time.time
    path = tmp_path / "lock"
    path.write_text(json.dumps(ELSEWHERE | {"pid": os.getpid()}))
    touched(path, silent)
    monkeypatch.setattr(time, "time", lambda: clock() + skew)
    if live:
        with pytest.raises(lock.Held, match=f"process {os.getpid()} on another"):
            lock.take(path)
    else:
        mine = lock.take(path)
        assert lock.read(path) == mine and lock.owner(mine)["host"] == HERE


@pytest.mark.parametrize(
    ("change", "there"),
    [
        ({}, True),
        ({"pid": DEAD}, False),
        ({"began": 1}, False),  # another process has this number now
        ({"boot": "before"}, None),  # the machine was rebooted, or another one has its name
        ({"space": "pid:[1]"}, None),  # another container has process numbers of its own
        ({"host": "another"}, None),
        ({"began": None}, None),  # a record of an older version
    ],
)
def test_a_process_is_identified_by_machine_process_number_and_start_time(change, there):
    assert lock.there(lock.me() | change) is there


def test_a_requeued_job_takes_over_the_lock_of_its_earlier_start(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with monkeypatch.context() as before:
        before.setattr(lock, "_machine", lambda: ELSEWHERE)
        lock.take(path)
    with pytest.raises(lock.Held):
        lock.take(path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert lock.owner(lock.take(path))["restart"] == 1
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "another")  # another cluster, where 77 is another job
    assert lock.there(ELSEWHERE | {"pid": 1, "job": "77", "restart": 0}) is None


def test_of_two_processes_that_find_a_dead_lock_only_the_faster_takes_it(tmp_path, monkeypatch):
    """The slower process has judged the lock dead when the faster one replaces it."""
    path = tmp_path / "lock"
    path.write_text(json.dumps(lock.me() | {"pid": DEAD}))
    alive, won = lock.alive, []

    def slow(owner, *signs):
        found = alive(owner, *signs)
        if not won:
            won.append(None)
            won[0] = lock.take(path)
        return found

    monkeypatch.setattr(lock, "alive", slow)
    with pytest.raises(lock.Held):
        lock.take(path)
    assert lock.read(path) == won[0]
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_a_process_that_dies_during_a_takeover_blocks_no_other(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text(json.dumps(lock.me() | {"pid": DEAD}))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(os, "replace", killed)
        dying.setattr(lock, "release", lambda *_: None)
        dying.setattr(lock, "_began", lambda _: 1)  # a process that no longer exists
        with pytest.raises(KeyboardInterrupt):
            lock.take(path)
    (left,) = set(tmp_path.glob("lock.*"))
    assert lock.owner(left.read_bytes())["began"] == 1
    mine = lock.take(path)
    assert lock.read(path) == mine and lock.there(lock.owner(mine))
    assert not list(tmp_path.glob("lock.*"))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_lock_is_held_on_a_file_system_without_hard_links(tmp_path, monkeypatch, code):
    def link(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    mine = lock.take(tmp_path / "lock")
    assert lock.read(tmp_path / "lock") == mine
    with pytest.raises(lock.Held):
        lock.take(tmp_path / "lock")
    lock.release(tmp_path / "lock", b"another's")
    assert lock.read(tmp_path / "lock") == mine
    lock.release(tmp_path / "lock", mine)
    assert not list(tmp_path.iterdir())


def test_a_hard_link_made_twice_because_its_answer_was_lost_is_a_lock(tmp_path, monkeypatch):
    link = os.link

    def twice(*words):
        link(*words)
        link(*words)

    monkeypatch.setattr(os, "link", twice)
    assert lock.take(tmp_path / "lock") == lock.read(tmp_path / "lock")


CODES = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.fixture(params=[None, *CODES], ids=lambda c: errno.errorcode.get(c, "flock"))
def flock(request, monkeypatch):
    """Run a test on a file system with flock, and on two kinds without."""

    def none(*_):
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr(fcntl, "flock", none)
    telling.note_once.cache_clear()
    return request.param


def test_one_process_at_a_time_with_and_without_flock_and_one_note(
    tmp_path, flock, capsys, monkeypatch
):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    inside, most = [], []

    def enter():
        with lock.exclusive(tmp_path / ".driver"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert most == [1, 1, 1]
    err = capsys.readouterr().err
    assert err.count("has no flock") == bool(flock)
    assert [p.name for p in tmp_path.iterdir()] == [".driver"]


def test_a_lock_file_in_use_is_kept_fresh_and_a_dead_one_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path = tmp_path / "lock"
    path.write_text(json.dumps(lock.me() | {"pid": DEAD}))
    with lock._holding(path):
        touched(path, 1000)
        end = time.monotonic() + 10
        while lock.age(path) > 500 and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.age(path) < 500
    assert not path.exists()


@pytest.mark.parametrize("flock", CODES[:1], indirect=True, ids=errno.errorcode.get)
def test_a_sweep_runs_on_a_file_system_without_flock(flock, tmp_path, monkeypatch, capfd):
    GlobalHydra.instance().clear()
    monkeypatch.setenv("SA_ROOT", str(tmp_path))
    monkeypatch.setattr(driver, "report", lambda *_: 0)
    words = "-m dim=3 dataset.n=16 analysis=[] tracker=none seed=0,1 sweep.canary=true"
    monkeypatch.setattr(sys, "argv", ["sa", *words.split(), "sweep.name=s"])
    run.main()
    assert capfd.readouterr().err.count("has no flock") == 1
    points = sweep.read_manifest(tmp_path, "s")[1]
    assert [record.state(tmp_path / "runs" / p["run_id"]) for p in points] == ["done", "done"]


# Reasons


def test_earlier_reasons_of_a_run_are_each_kept_once_when_it_ends_again(tmp_path):
    with contextlib.suppress(ValueError), Record.open(tmp_path, CONFIG, {}) as kept:
        raise ValueError("the first")
    record.mark(tmp_path, kept.id, "SLURM: TIMEOUT", array="7_0")
    record.mark(tmp_path, kept.id, "SLURM: TIMEOUT", array="7_0")  # from a second driver
    with Record.open(tmp_path, CONFIG, {}) as kept:
        kept.fail("the third", state="interrupted")
    status = record.load_status(kept.folder)
    assert status["error"] == "the third" and len(status["past"]) == 2
    assert [p["error"].splitlines()[-1] for p in status["past"]] == [
        "ValueError: the first", "SLURM: TIMEOUT",
    ]  # fmt: skip


def test_a_reason_belongs_to_the_process_or_job_that_gave_it(tmp_path, monkeypatch):
    for name, value in (("JOB_ID", "12"), ("ARRAY_JOB_ID", "9"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with Record.open(tmp_path, CONFIG, {}) as kept:
        kept.fail("mine")
    assert record.reason(kept.folder, array="9_3") == record.reason(kept.folder, job="12") == "mine"
    assert record.reason(kept.folder, host=HERE, pid=os.getpid()) == "mine"
    assert record.reason(kept.folder, array="9_4") is None
    assert record.reason(kept.folder, host=HERE, pid=DEAD) is None


# Asking to end


def test_a_run_of_another_machine_is_asked_to_end_by_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "BEAT", 0.01)
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    try:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lock, "_machine", lambda: ELSEWHERE)
            kept = Record.open(tmp_path, CONFIG, {})
        with kept:
            (kept.folder / "cancel").write_text("an earlier process's lock")
            time.sleep(0.05)
            assert not came and not kept.cancelled
            assert record.ask_to_end(kept.folder) == "another"
            end = time.monotonic() + 10
            while not came and time.monotonic() < end:
                time.sleep(0.01)
            assert came and kept.cancelled
        assert not (kept.folder / "cancel").exists()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert record.ask_to_end(kept.folder) is None


def test_a_process_that_reuses_the_number_of_a_dead_one_is_not_signalled(tmp_path, monkeypatch):
    folder = write_config(tmp_path, CONFIG)
    other = lock.me() | {"began": 1}
    (folder / "lock").write_text(json.dumps(other))
    files.write_json(folder / "status.json", {"state": "running", **other})
    assert record.state(folder) == "lost"
    told = []
    monkeypatch.setattr(os, "kill", lambda pid, number: number and told.append(pid))
    assert record.ask_to_end(folder) is None and not told
