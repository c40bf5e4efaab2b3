"""The run folder: ids, complete files after kill -9 and full disks, one owner a run, manifests."""

import errno
import hashlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from sa.record import files, identity, lock, sweep
from sa.record import run as record
from sa.record.config import read_config, write_config
from sa.record.run import Record

CONFIG = {
    "seed": 0,
    "steps": 100,
    "estimator": {"_target_": "sa.estimator.nes.NES", "sigma": 0.01, "antithetic": True},
    "model": {"widths": [8, 8]},
    "root": "/somewhere",
    "sweep": {"name": None},
}


@pytest.fixture
def run(tmp_path):
    with Record.open(tmp_path, CONFIG, {"commit": "abc"}) as made:
        yield made


def child(code: str, *args: object, **more) -> subprocess.Popen:
    """Start a Python process that runs this code with CONFIG and Record imported."""
    start = (
        "import sys, os, time\nfrom pathlib import Path\n"
        f"from sa.record import files, run as record\nC = {CONFIG!r}\n"
    )
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)


def temporaries(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".tmp-")]


# Identity of a run


@pytest.mark.parametrize(
    "same",
    [
        {"estimator": {"antithetic": True, "sigma": 1e-2, "_target_": "sa.estimator.nes.NES"}},
        {"steps": 1e2},
        {"model": {"widths": (8.0, 8)}},
        {"root": "elsewhere", "tracker": {"mode": "online"}, "description": "words"},
        {"threads": 4, "memory": 1, "figure": ["curves"], "checkpoint_seconds": 1},
    ],
)
def test_equal_configurations_have_the_same_run_id(same):
    assert identity.run_id(CONFIG | same) == identity.run_id(CONFIG)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"seed": True},
        {"seed": False},  # 0 and false are different settings
        {"seed": "0"},
        {"seed": None},
        {"estimator": CONFIG["estimator"] | {"sigma": 0.011}},
        {"estimator": CONFIG["estimator"] | {"antithetic": 1}},
        {"model": {"widths": [8, 9]}},
        {"new": None},
        {"init_seed": 0},  # a setting, unlike null
    ],
)
def test_different_configurations_have_different_run_ids(other):
    assert identity.run_id(CONFIG | other) != identity.run_id(CONFIG)


def test_a_run_id_has_ten_digits_and_never_changes():
    text = '{"a":1,"b":{"c":[true,null,"x",0.5]}}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:10]
    assert identity.run_id({"b": {"c": (True, None, "x", 0.5)}, "a": 1.0}) == expected


@pytest.mark.parametrize(
    ("old", "new", "depths"),
    [
        ("sa.model.resnet32.ResNet32", "sa.model.resnet.ResNet", (32, 20)),
        ("sa.model.vgg11.VGG11", "sa.model.vgg.VGG", (11, 16)),
    ],
)
def test_a_model_that_got_a_depth_keeps_its_run_ids(old, new, depths):
    before = identity.run_id({"model": {"_target_": old, "outputs": 10}})
    first, other = ({"model": {"_target_": new, "outputs": 10, "depth": d}} for d in depths)
    assert identity.run_id(first) == before != identity.run_id(other)
    own = {"model": {"_target_": "mylab.Net", "depth": depths[0]}}
    assert identity.run_id(own) != identity.run_id({"model": {"_target_": "mylab.Net"}})


def test_only_top_level_bookkeeping_is_left_out_of_the_run_id():
    config = {"model": {"memory": 3}, "memory": 4}
    assert identity.identity(config) == {"model": {"memory": 3}}


def test_a_setting_that_cannot_be_serialised_is_named():
    with pytest.raises(files.RecordError, match=r"model\.hook=.*number, text, list or mapping"):
        identity.run_id({"model": {"hook": object()}})


def test_the_frozen_configuration_has_the_id_of_its_folder(tmp_path):
    numbers = {"a": 1e-5, "b": 1e22, "c": math.inf, "d": -0.0, "e": "1e-5", "f": "no", "g": (1, 2)}
    folder = write_config(tmp_path, CONFIG | numbers)
    assert record.state(folder) == "pending"
    assert identity.run_id(yaml.safe_load((folder / "config.yaml").read_text())) == folder.name


# The life of a run


def test_a_run_is_recorded_from_start_to_finish(tmp_path):
    with Record.open(tmp_path, CONFIG, {"commit": "abc", "seed": 0}) as run:
        assert record.state(run.folder) == "running"
        run.append({"step": 0, "loss": math.nan, "flips": [1.0, math.inf]})
        run.append({"step": 1, "loss": 0.5})
        assert run.checkpoint is None
        run.save(lambda path: path.write_text("weights"))
        assert run.checkpoint.read_text() == "weights"
        assert run.finish({"value": 0.5, "bad": math.nan}) == {"value": 0.5, "bad": None}
    assert run.rows() == [
        {"step": 0, "loss": None, "flips": [1.0, None]},
        {"step": 1, "loss": 0.5},
    ]
    assert record.read_rows(run.folder) == run.rows()
    assert record.state(run.folder) == "done"
    assert record.read_result(tmp_path, run.id) == {"value": 0.5, "bad": None}
    meta = files.read_json(run.folder / "meta.json")
    assert meta["commit"] == "abc" and meta["schema"] == 1
    assert meta["hashed"] == identity.identity(CONFIG)
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == CONFIG
    status = record.load_status(run.folder)
    assert (status["step"], status["total"], status["restarts"]) == (1, 100, 0)
    assert {p.name for p in run.folder.iterdir()} == {
        "config.yaml", "meta.json", "status.json", "metrics.jsonl", "checkpoint.pt", "result.json",
    }  # fmt: skip


def test_numpy_numbers_are_written_as_numbers(run):
    import numpy as np

    run.append({"step": np.int64(3), "loss": np.float32(0.5), "nan": np.float64("nan")})
    assert run.rows() == [{"step": 3, "loss": 0.5, "nan": None}]


def test_a_row_with_a_nested_mapping_is_refused(run):
    with pytest.raises(files.RecordError, match="'test' is a mapping"):
        run.append({"step": 0, "test": {"loss": 1.0}})
    assert run.rows() == []


def test_a_diverged_result_gives_the_run_the_state_diverged(tmp_path, run):
    run.finish({"status": "diverged", "step": 3})
    assert record.state(run.folder) == "diverged"


@pytest.mark.parametrize(
    ("raised", "state"), [(ValueError("a reason"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_exception_is_recorded_and_releases_the_lock(tmp_path, raised, state):
    with pytest.raises(type(raised)), Record.open(tmp_path, CONFIG, {}) as run:
        raise raised
    assert record.state(run.folder) == state
    assert type(raised).__name__ in record.load_status(run.folder)["error"].splitlines()[-1]
    assert not (run.folder / "lock").exists()


def test_a_skipped_run_keeps_its_state_and_the_last_part_of_a_long_reason(tmp_path):
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.fail("x" * 10_000 + "the reason", state="skipped")
    assert record.state(run.folder) == "skipped"
    error = record.load_status(run.folder)["error"]
    assert error.endswith("the reason") and len(error) <= 4000
    with pytest.raises(ValueError, match="failed, skipped, interrupted"):
        run.fail("x", state="lost")


def test_a_run_closed_without_finish_or_fail_is_interrupted(tmp_path):
    with Record.open(tmp_path, CONFIG, {}) as run:
        pass
    assert record.state(run.folder) == "interrupted"


def test_reopening_a_run_continues_from_its_checkpoint(tmp_path):
    with Record.open(tmp_path, CONFIG, {"commit": "one"}) as run:
        for step in range(5):
            run.append({"step": step, "loss": 1.0})
        run.save(lambda path: path.write_text("3"))
        run.fail("a reason")
    with Record.open(tmp_path, CONFIG, {"commit": "two"}) as run:
        assert run.status["restarts"] == 1 and run.status["error"] is None
        assert run.meta["commits"] == ["one", "two"]
        run.rewind(2)
        run.append({"step": 3, "loss": 2.0})
        assert [r["step"] for r in run.rows()] == [0, 1, 2, 3]
        run.finish({})
    assert [r["loss"] for r in run.rows()] == [1.0, 1.0, 1.0, 2.0]


def test_reopening_a_run_without_a_checkpoint_starts_again(tmp_path):
    with Record.open(tmp_path, CONFIG, {"commit": "one"}) as run:
        run.append({"step": 0})
    with Record.open(tmp_path, CONFIG, {"commit": "two"}) as run:
        assert run.rows() == [] and run.meta["commits"] == ["two"]


def test_a_run_that_another_process_finished_is_not_opened_again(tmp_path):
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.finish({"value": 1.0})
    with pytest.raises(files.Busy, match="just been finished"):
        Record.open(tmp_path, CONFIG, {})
    assert record.state(run.folder) == "done" and not (run.folder / "lock").exists()


def test_run_folders_with_missing_or_damaged_files_are_pending(tmp_path):
    assert record.state(tmp_path / "none") == "pending"
    assert record.read_result(tmp_path, "none") is None and record.load_status(tmp_path) == {}
    (tmp_path / "status.json").write_text('{"state": "run')
    (tmp_path / "result.json").write_text("")
    assert record.state(tmp_path) == "pending"


# Kills, full disks and damaged files


WRITER = """
    run = record.Record.open(sys.argv[1], C, {})
    def weights(path):
        with path.open("wb") as file:
            for _ in range(50):
                file.write(bytes([step % 251]) * 10_000)
    for step in range(10**9):
        run.append({"step": step, "loss": 0.5, "list": [0.25] * 50})
        if step % 3 == 0:
            run.save(weights)
        if step == 10:
            print("going", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.05, 0.111])
def test_kill_9_leaves_nothing_half_written(tmp_path, delay):
    folder = tmp_path / "runs" / identity.run_id(CONFIG)
    with child(WRITER, tmp_path) as process:
        process.stdout.readline()
        assert record.state(folder) == "running"
        with pytest.raises(files.Busy, match=rf"process {process.pid} on"):
            Record.open(tmp_path, CONFIG, {})
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        while "Z" not in Path(f"/proc/{process.pid}/stat").read_text():
            time.sleep(0.01)
        assert record.state(folder) == "lost"  # dead, although its parent has not waited for it
    with Record.open(tmp_path, CONFIG, {}) as run:
        assert temporaries(folder) == []
        assert run.status["restarts"] == 1
        saved = run.checkpoint.read_bytes()
        assert len(saved) == 500_000 and len(set(saved)) == 1
        steps = [r["step"] for r in run.rows()]
        assert steps == list(range(len(steps))) and len(steps) > 10
        assert saved[0] in {s % 251 for s in steps[-4:]}
        run.rewind(5)
        run.append({"step": 6})
        assert [r["step"] for r in run.rows()] == list(range(7))


@pytest.mark.parametrize("torn", [b'{"step":2,"lo', b'{"step":2}', b"\x00\x00\x00\n", b"[1]\n"])
def test_an_incomplete_last_line_is_dropped(tmp_path, torn):
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.append({"step": 0})
        run.append({"step": 1})
        run.save(lambda path: path.write_text("x"))
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert [r["step"] for r in run.rows()] == [0, 1]
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.append({"step": 2})
        assert [r["step"] for r in run.rows()] == [0, 1, 2]


def test_a_corrupt_line_before_the_last_is_reported_by_number(run):
    for step in range(3):
        run.append({"step": step})
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step":1}', '{"step":1'))
    with pytest.raises(files.RecordError, match=r"metrics\.jsonl, line 2: .*Delete that line"):
        run.rows()


def full(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def torch_full(path: Path) -> None:
    path.write_bytes(b"half")
    raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")


@pytest.mark.parametrize(
    ("write", "message"), [(full, "No space left.*free some space"), (torch_full, "file write fai")]
)
def test_a_full_disk_keeps_the_old_checkpoint(run, write, message):
    run.save(lambda path: path.write_text("old"))
    with pytest.raises(files.RecordError, match=rf"checkpoint\.pt: .*{message}"):
        run.save(write)
    assert run.checkpoint.read_text() == "old"
    assert temporaries(run.folder) == []


def test_a_row_cut_short_by_a_full_disk_is_removed_and_can_be_written_again(run):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[:7])

        def __getattr__(self, name):
            return getattr(self.file, name)

    run.append({"step": 0})
    run._rows = Full(run._rows)
    with pytest.raises(files.RecordError, match=r"metrics\.jsonl: No space left"):
        run.append({"step": 1})
    run._rows = run._rows.file
    run.append({"step": 1})
    assert run.rows() == [{"step": 0}, {"step": 1}]


def test_a_full_disk_at_the_end_leaves_the_run_resumable(tmp_path, monkeypatch):
    with pytest.raises(files.RecordError, match="No space left"):
        with Record.open(tmp_path, CONFIG, {}) as run:
            monkeypatch.setattr(Path, "write_bytes", lambda path, data: full_now(path))
            run.finish({"value": 1.0})
    monkeypatch.undo()
    assert record.state(run.folder) == "lost"
    assert temporaries(run.folder) == []
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.finish({"value": 1.0})
    assert record.state(run.folder) == "done"


def full_now(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_an_error_raised_while_saving_a_checkpoint_is_not_replaced(run):
    def wrong(path):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run.save(wrong)
    assert run.checkpoint is None and temporaries(run.folder) == []


def test_an_unwritable_root_is_refused_with_how_to_choose_another(tmp_path):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "below"
    wanted = r"root=.*file/below: cannot write there \(Not a directory\).*root=DIR.*SA_ROOT"
    for attempt in (
        lambda: Record.open(root, CONFIG, {}),
        lambda: write_config(root, CONFIG),
        lambda: sweep.write_manifest(root, "s", [], {}),
    ):
        with pytest.raises(files.RecordError, match=wanted):
            attempt()


# One owner per run


def test_a_live_run_is_busy_and_the_error_names_its_process(tmp_path, run, monkeypatch):
    with pytest.raises(files.Busy, match=rf"process {os.getpid()} on {os.uname().nodename}"):
        Record.open(tmp_path, CONFIG, {})
    assert record.state(run.folder) == "running"


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for name in ("lock", "status.json"):
        if (folder / name).exists():
            os.utime(folder / name, (then, then))


@pytest.mark.parametrize(
    ("owner", "seconds", "live"),
    [
        ({"host": "another", "pid": 1, "job": "77"}, 10, True),
        ({"host": "another", "pid": 1}, 130, False),
        ({"host": os.uname().nodename, "pid": os.getpid()}, 10, True),
        ({"host": os.uname().nodename, "pid": os.getpid()}, 130, False),
        ({"host": os.uname().nodename, "pid": 2**22 + 1}, 10, False),
        ({"host": os.uname().nodename}, 10, False),
        (None, 10, True),  # just being created
        (None, 130, False),
    ],
)
def test_a_lock_is_stale_if_its_process_is_dead_or_silent_for_too_long(
    tmp_path, owner, seconds, live
):
    folder = write_config(tmp_path, CONFIG)
    (folder / "lock").write_text(json.dumps(owner) if owner else "")
    if owner:
        files.write_json(folder / "status.json", {"state": "running", **owner})
    age(folder, seconds)
    if owner:
        assert record.state(folder) == ("running" if live else "lost")
    if live:
        with pytest.raises(files.Busy, match="job 77" if owner and "job" in owner else "process"):
            Record.open(tmp_path, CONFIG, {})
    else:
        with Record.open(tmp_path, CONFIG, {}) as run:
            assert run._owned()


def test_of_many_processes_that_take_over_a_lock_one_wins(tmp_path):
    folder = write_config(tmp_path, CONFIG)
    steal = """
        root, start = sys.argv[1], float(sys.argv[2])
        won = 0
        for attempt in range(20):
            while time.time() < start + attempt * 0.05:
                pass
            try:
                run = record.Record.open(f"{root}/{attempt}", C, {})
                won += 1 << attempt
            except files.Busy:
                pass
        print(won, flush=True)
        sys.stdin.read()
        os._exit(0)
    """
    for attempt in range(20):
        folder = write_config(tmp_path / str(attempt), CONFIG)
        owner = {"host": os.uname().nodename, "pid": 2**22 + 1, "job": None}
        (folder / "lock").write_text(json.dumps(owner))
    start = time.time() + 1.0
    thieves = [child(steal, tmp_path, start, stdin=subprocess.PIPE) for _ in range(3)]
    wins = [int(p.stdout.readline()) for p in thieves]
    for process in thieves:
        process.communicate("")
    assert sum(wins) == (1 << 20) - 1 and wins[0] & wins[1] == wins[1] & wins[2] == 0


def test_a_process_whose_run_was_taken_over_writes_no_more(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(lock, "_machine", lambda: {"host": "another", "boot": "b", "space": "s"})
        slept = Record.open(tmp_path, CONFIG, {})
    with slept:
        slept.append({"step": 0})
        age(slept.folder, 200)
        with Record.open(tmp_path, CONFIG, {}) as thief:
            with pytest.raises(files.RecordError, match="taken over by another process"):
                slept.save(lambda path: path.write_text("x"))
            with pytest.raises(files.RecordError, match="taken over"):
                slept.finish({})
            slept.fail("not its business any more")
            slept.close()
            assert record.state(thief.folder) == "running" and thief._owned()
            thief.finish({"value": 1.0})


def test_the_lock_is_kept_during_a_long_step(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "BEAT", 0.02)
    with Record.open(tmp_path, CONFIG, {}) as run:
        age(run.folder, 200)
        time.sleep(0.2)
        assert record.state(run.folder) == "running"


def test_the_heartbeat_records_the_step(tmp_path, monkeypatch):
    with Record.open(tmp_path, CONFIG, {}) as run:
        run.append({"step": 7})
        assert record.load_status(run.folder)["step"] is None  # not yet time
        monkeypatch.setattr(record, "BEAT", 0.0)
        run.append({"step": 8})
        assert record.load_status(run.folder)["step"] == 8


def test_the_job_id_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with Record.open(tmp_path, CONFIG, {}) as run:
        assert record.load_status(run.folder)["job"] == "4711"


# Sweeps


POINTS = [
    {"index": 0, "run_id": "aaaa", "overrides": ["seed=0"]},
    {"index": 1, "run_id": "bbbb", "overrides": ["seed=1", "a='x y'"]},
]


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    sweep.write_manifest(tmp_path, "study", POINTS, {"figure": ["curves"]})
    about, points = sweep.read_manifest(tmp_path, "study")
    assert about.pop("digest") and (about, points) == ({"figure": ["curves"]}, POINTS)
    assert sweep.sweeps(tmp_path) == ["study"]
    assert temporaries(tmp_path / "sweeps" / "study") == []


def test_the_error_of_a_missing_sweep_lists_the_existing_ones(tmp_path):
    with pytest.raises(files.Missing, match="no sweeps yet"):
        sweep.read_manifest(tmp_path, "study")
    sweep.write_manifest(tmp_path, "study", POINTS, {})
    with pytest.raises(files.Missing, match="did you mean 'study'.*there are: study"):
        sweep.read_manifest(tmp_path, "studdy")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_sweep_name_cannot_be_a_path_to_another_folder(tmp_path, name):
    with pytest.raises(files.RecordError, match="cannot be named"):
        sweep.write_manifest(tmp_path, name, POINTS, {})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"index": 1, "run_id": "bb', "not a line of JSON"),
        ("[1, 2]", "not a line of JSON"),
        ('{"index": 1, "run_id": "aaaa", "overrides": []}', "aaaa is on line 1 already"),
        ('{"index": 0, "run_id": "bbbb", "overrides": []}', "0 is on line 1 already"),
        ('{"index": 1, "run_id": "bbbb"}', "expected .*overrides"),
        ('{"index": 1, "run_id": "bbbb", "overrides": [3]}', "expected .*overrides"),
        ('{"index": 1, "run_id": "../bbbb", "overrides": []}', "expected .*run_id"),
    ],
)
def test_a_damaged_manifest_is_reported_with_its_line_and_a_remedy(tmp_path, line, told):
    sweep.write_manifest(tmp_path, "study", POINTS[:1], {})
    with (tmp_path / "sweeps/study/manifest.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(files.RecordError, match=rf"line 2: .*{told}.*Repeat the .* -m"):
        sweep.read_manifest(tmp_path, "study")


def test_an_invalid_plan_is_not_written(tmp_path):
    with pytest.raises(files.RecordError, match="sweep study, line 2: aaaa is on line 1"):
        sweep.write_manifest(tmp_path, "study", [POINTS[0], POINTS[0] | {"index": 1}], {})
    assert sweep.sweeps(tmp_path) == []


def test_records_that_name_moved_classes_keep_their_ids_and_can_be_read(tmp_path):
    for old, new in identity.MOVED.items():
        before = CONFIG | {"part": {"_target_": old, "several": [{"_target_": old}]}}
        after = CONFIG | {"part": {"_target_": new, "several": [{"_target_": new}]}}
        assert identity.run_id(before) == identity.run_id(after)
        assert identity.current(before) == after
        module, _, name = new.rpartition(".")
        assert getattr(importlib.import_module(module), name).__module__ == module
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(json.dumps(before))
        assert read_config(folder)["part"] == after["part"]


def test_a_renamed_setting_keeps_run_ids_and_is_read_by_its_new_name(tmp_path):
    before = CONFIG | {"objective": "test/accuracy", "until": {"objective": 1}}
    after = CONFIG | {"metric": "test/accuracy", "until": {"objective": 1}}
    assert identity.run_id(before) == identity.run_id(after)
    (tmp_path / "config.yaml").write_text(json.dumps(before))
    assert read_config(tmp_path) == identity.current(after)
    sweep.write_manifest(tmp_path, "study", POINTS, {"objective": "test/accuracy"})
    assert sweep.read_manifest(tmp_path, "study")[0]["metric"] == "test/accuracy"
