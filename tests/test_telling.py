"""Output that cannot be written never ends a run; a record that cannot be written does."""

import builtins
import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.job import worker
from sa.launch import driver, progress
from sa.launch.plan import Point
from sa.record import files, sweep, telling
from sa.record import run as record
from sa.record.config import write_config
from sa.tracking import wandb

ABOUT = {"group": "", "job_type": "", "name": "", "tags": []}
PROBE = "dim=3 dataset.n=16 analysis=[] tracker=none".split()
TRAIN = [*PROBE, "steps=4", "evaluate_every=1"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(telling, "LOST", {})
    monkeypatch.setattr(wandb, "_BROKEN", [])
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def raising(error: BaseException):
    def act(*_, **__):
        raise error

    return act


class Broken(io.StringIO):
    """A stream without a descriptor that fails."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _):
        raise self.error


LOST = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EBADF, "Bad file descriptor"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda e: type(e).__name__ + str(e)[:10])
def test_a_stream_that_fails_is_silenced_and_its_error_is_kept(error, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    telling.patient()
    telling.patient()  # a second time changes nothing
    print("lost", flush=True)
    print("lost too", flush=True)
    assert not sys.stdout.isatty()
    assert telling.LOST == {"standard output": getattr(error, "strerror", None) or str(error)}
    left = isinstance(error, BrokenPipeError)  # `| head`: its reader ended on purpose
    assert (telling.output_lost() is None) == left


def test_a_stream_that_is_busy_once_is_not_given_up(monkeypatch):
    stream = Broken(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    monkeypatch.setattr(sys, "stdout", stream)
    telling.patient()
    print("too fast")
    assert not telling.LOST and sys.stdout._stream is stream


def test_characters_that_the_stream_cannot_encode_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    telling.patient()
    print("σ = 1 ━", flush=True)
    assert raw.getvalue() == rb"\u03c3 = 1 \u2501" + b"\n" and not telling.LOST


CLOSED = """
import os, sys
from sa.record import telling
from sa.record.run import Record
telling.patient()
print("a line")
sys.stderr.write("a line")
os.write(1, b"of C code")
run = Record.open(sys.argv[1], {"steps": 0}, {})
run.append({"step": 0, "loss": 1.0})
os.write(1, b"more")
os.system("echo from a child; echo and more >&2")
run.finish({})
run.close()
"""


@pytest.mark.parametrize("closed", ["1", "2", "012"])
def test_a_closed_standard_stream_never_receives_a_file_of_the_record(tmp_path, closed):
    shut = " ".join(f"{n}>&-" if n != "0" else "<&-" for n in closed)
    code = ["sh", "-c", f'exec "$@" {shut}', "sh", sys.executable, "-c", CLOSED, str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "metrics.jsonl").read_text() == '{"step":0,"loss":1.0}\n'
    told = record.load_status(folder)
    places = {"1": "standard output", "2": "standard error"}
    assert told["state"] == "done"
    assert told["untold"] == {places[n]: "it was closed" for n in closed if n in places}


GONE = """
import contextlib, sys
from sa.record import telling
telling.patient(hangup=True)
print("here", flush=True)
with contextlib.suppress(OSError):
    sys.stdin.readline()
print("nobody is there", flush=True)
with open(sys.argv[1], "w") as file:
    file.write(telling.LOST["standard output"])
"""


def test_a_process_survives_the_end_of_its_terminal(tmp_path):
    """A terminal that ends sends SIGHUP to its session, and writing to it raises EIO."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", GONE, str(tmp_path / "told")])
    assert b"here" in os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "told").read_text() == os.strerror(errno.EIO)


@pytest.fixture
def sa(monkeypatch, tmp_path, capfd):
    """Return a function that types a command with output to a full disk: (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_ROOT", raising=False)
    monkeypatch.setattr(driver, "report", lambda *_: 0)

    def typed(*words, out="/dev/full"):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sa", *words])
        code = 0
        with open(out, "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            try:
                run.main()
            except SystemExit as end:
                code = end.code
        return code, capfd.readouterr().err

    return typed


@needs_full
def test_a_training_and_a_sweep_finish_if_their_output_goes_to_a_full_disk(sa):
    code, err = sa(*TRAIN, "root=one")
    assert code == 0 and "No space left on device" in err
    (folder,) = Path("one/runs").iterdir()
    told = record.load_status(folder)
    assert told["state"] == "done" and told["untold"] == {
        "standard output": "No space left on device"
    }
    telling.LOST.clear()
    code, _ = sa("-m", *PROBE, "seed=0,1", "sweep.name=s", "root=many")
    assert code == 0
    about, points = sweep.read_manifest("many", "s")
    assert about["untold"] == {"standard output": "No space left on device"}
    for point in points:
        assert record.state(Path("many/runs") / point["run_id"]) == "done"


@needs_full
def test_help_and_status_fail_if_their_output_cannot_be_written(sa, monkeypatch):
    from sa.sweep.command import main

    assert sa("--help")[0] == 1
    telling.LOST.clear()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["status", "--root", "."]) == 1


def test_a_run_fails_if_its_record_cannot_be_written(sa, monkeypatch):
    append = record.Record.append

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.file, name)

    def full(self, row):
        if row["step"] == 2:
            self._rows = Full(self._rows)
        append(self, row)

    monkeypatch.setattr(record.Record, "append", full)
    code, err = sa(*TRAIN, out="/dev/null")
    assert code == 1 and "metrics.jsonl: No space left on device" in err
    (folder,) = Path("runs").iterdir()
    assert record.state(folder) == "failed"
    assert "metrics.jsonl: No space left" in record.load_status(folder)["error"]


def test_a_run_finishes_if_its_log_cannot_be_written(sa, monkeypatch):
    config = {"seed": 0}

    def execute(made, tell):
        with record.Record.open(made["root"], config, {}) as kept:
            kept.finish({})

    monkeypatch.setattr(worker, "execute", execute)
    folder = write_config(".", config)
    (folder / "log.txt").mkdir()  # a folder in its place stops root, too
    assert sa("--frozen", str(folder), out="/dev/null")[0] == 0
    told = record.load_status(folder)
    assert told["state"] == "done" and told["untold"] == {"log.txt": os.strerror(errno.EISDIR)}


def test_a_progress_bar_that_raises_does_not_end_a_sweep(monkeypatch, capsys):
    import rich.progress

    point = Point(0, "aa", ["seed=0"], {"seed": 0})
    for where in ("start", "update", "stop"):
        with monkeypatch.context() as broken:
            broken.setattr(sys.stdout, "isatty", lambda: True)
            broken.setattr(rich.progress.Progress, where, raising(RuntimeError(where)))
            with progress.Outcomes(1) as outcomes:
                outcomes.ended(point, {"value": 1.0, "seconds": 1.0})
                outcomes.ended(point, None, "a reason")
            assert outcomes.failed == {"aa": "a reason"}
            assert telling.LOST.pop("progress bar") == f"RuntimeError: {where}"


@pytest.mark.parametrize("error", [RuntimeError("service"), SystemExit(3), BrokenPipeError(32, "")])
def test_a_wandb_mirror_that_fails_is_reported_in_the_records(tmp_path, error, capsys):
    mirror = wandb.Mirror(raising(error))
    mirror.log({"step": 0})
    mirror.finish({})
    assert mirror._begin is None
    for seed in (0, 1):  # it stays off for later runs of the process, whose records say so too
        telling.LOST.clear()
        opened = wandb.Wandb().open("x", tmp_path, {}, {}, group="", job_type="", name="", tags=[])
        assert opened._begin is None
        with record.Record.open(tmp_path, {"seed": seed}, {}) as kept:
            kept.finish({})
        told = record.load_status(kept.folder)["untold"]
        assert told["W&B mirror"].startswith(type(error).__name__)
    assert capsys.readouterr().err.count("the W&B mirror broke") == 1


def test_an_inherited_wandb_service_is_not_used(tmp_path, monkeypatch):
    seen, genuine = [], builtins.__import__

    def imports(name, *more):
        if name == "wandb":
            seen.append(os.environ.get("WANDB_SERVICE"))
            raise ImportError(name)
        return genuine(name, *more)

    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-nowhere")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)  # as in a new process
    monkeypatch.setattr(builtins, "__import__", imports)
    wandb.Wandb().open("x", tmp_path, {}, {}, **ABOUT)
    assert seen == [None]


def test_lost_output_is_added_to_the_status_of_a_run(tmp_path):
    path = tmp_path / "status.json"
    files.write_json(path, {"state": "done"})
    record.record_lost_output(path)
    assert json.loads(path.read_text()) == {"state": "done"}
    telling.lose("standard output", "gone")
    record.record_lost_output(path)
    assert json.loads(path.read_text()) == {"state": "done", "untold": {"standard output": "gone"}}
    record.record_lost_output(tmp_path / "not" / "there")


def test_a_stream_closed_after_its_last_write_counts_no_lost_output():
    """A logger of an earlier command may flush a closed stream at any time."""
    stream = telling.Patient(io.StringIO(), "standard output")
    stream.write("all of it")
    stream._stream.close()
    stream.flush()
    assert not stream.isatty() and telling.output_lost() is None
    stream.write("more")
    assert "closed" in telling.output_lost()
    stream._stream.close()  # the null device, which replaced the closed stream
