"""The W&B mirror of a run: its offline files hold exactly the rows that were logged."""

import json
import math
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sa.tracking import wandb as tracker
from sa.tracking.wandb import Wandb, describe

CONFIG = {
    "dataset": {"_target_": "sa.dataset.gaussian.Gaussian", "dim": 32},
    "model": {"_target_": "sa.model.toy_mlp.ToyMLP"},
    "quantizer": {
        "weight": {"_target_": "sa.quantizer.none.Identity"},
        "activation": {"_target_": "sa.quantizer.sign.Sign"},
    },
    "estimator": {"_target_": "sa.estimator.nes.NES", "samples": 5000, "sigma": 0.01},
    "sweep": {"name": "descent_dims"},
    "seed": 0,
    "steps": 0,
}
META = {"commit": "abc", "dirty": False, "slurm": {"SLURM_JOB_ID": "7"}}


def records(file: Path) -> list:
    """Return the records of a closed .wandb file, waiting for W&B's own writing process."""
    until = time.monotonic() + 20
    while True:
        found = list(_written(file))
        if time.monotonic() > until or any(r.HasField("exit") for r in found):
            return found
        time.sleep(0.05)


def _written(file: Path):
    """Return the records so far: a 7-byte header, then LevelDB's log format in 32 KiB blocks."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    assert data[:4] in (b":W&B", b"")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # padding at the end of a block
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + size > len(data) or not kind:  # not yet written
            return
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a complete record, or its last part
            yield Record.FromString(record)
            record = b""


def read(file: Path):
    """Return the run record, config, history rows and summary of a .wandb file."""

    def plain(items):
        keyed = ((tuple(x.nested_key) or (x.key,), json.loads(x.value_json)) for x in items)
        return {".".join(k): v for k, v in keyed if not k[0].startswith("_")}

    head, config, rows, summary = None, {}, [], {}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            head = record.run
            config |= plain(head.config.update)
        elif kind == "history":
            row = plain(record.history.item)
            assert row["step"] == record.history.step.num
            rows.append(row)
        elif kind == "summary":
            summary |= plain(record.summary.update)
    return head, config, rows, summary


def offline(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def rows_of(seed: int, n: int = 300, start: int = 0) -> list[dict]:
    """Return rows with awkward values: inexact decimals, tiny, huge, negative zero, text."""
    return [
        {
            "step": k,
            "loss": math.exp(-k / (7 + seed)) / 3,
            "evals": 2.0**53 + k,
            "alignment/cosine": -math.sin(k + seed) * 1e-17,
            "descent/best": -0.0,
            **({"test/accuracy": 0.1 * k} if k % 10 == 0 else {}),
            **({"diverged": "fc1"} if k == n - 1 else {}),
        }
        for k in range(start, n)
    ]


def opened(folder: Path, run_id: str = "r0", config=CONFIG, **fields):
    folder.mkdir(exist_ok=True)
    told = describe(config, META)
    return Wandb(**fields).open(run_id, folder, config, META, group="descent_dims", **told)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Run a test without key and login file, and with wandb not yet found broken."""
    monkeypatch.setattr(tracker, "_BROKEN", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in [k for k in os.environ if k.startswith("WANDB_")]:
        monkeypatch.delenv(key)


def test_a_relative_folder_of_a_mirror_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    for place in ("here", "there"):  # W&B's service stays in the folder where the first run began
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        mirror = opened(Path("run"), place)
        mirror.log({"step": 0, "loss": 0.5})
        assert mirror.finish({"value": 0.5})
        assert len(offline(tmp_path / place / "run")) == 1


def test_two_runs_in_one_process_have_separate_and_exact_files(tmp_path, capfd):
    from PIL import Image

    figure = tmp_path / "curve.png"
    Image.new("RGB", (4, 4)).save(figure)
    pair = [opened(tmp_path / "a", "ra"), opened(tmp_path / "b", "rb", CONFIG | {"seed": 1})]
    logged = [rows_of(0), rows_of(1)]
    for rows in zip(*logged, strict=True):  # logged in turn
        for mirror, row in zip(pair, rows, strict=True):
            mirror.log(row | {"descent/lrs": [0.1, row["step"]]})
    pair[0].finish({"value": 0.1 + 0.2, "loss": 5.0, "status": "done"}, [figure])
    pair[1].finish({"value": 2.0, "loss": 5.0, "status": "diverged"})
    for seed, (key, want) in enumerate(zip("ab", logged, strict=True)):
        (file,) = offline(tmp_path / key)
        head, config, rows, summary = read(file)
        if key == "a":
            image = rows[-1].pop("figure/curve.path")
            assert (file.parent / "files" / image).read_bytes() == figure.read_bytes()
            rows[-1] = {k: v for k, v in rows[-1].items() if not k.startswith("figure/")}
        assert rows == want
        assert config == {**CONFIG, "seed": seed, "meta": META}
        assert (head.run_id, head.project, head.entity) == (f"r{key}", "sa", "")
        assert (head.run_group, head.job_type) == ("descent_dims", "probe")
        assert head.display_name == f"nes-d32-n5000-s0.01-seed{seed}"
        assert head.tags == ["nes", "none/sign", "gaussian", "toy_mlp", "descent_dims"]
        assert head.resume
        assert summary["value"] == (2.0 if seed else 0.1 + 0.2)
        assert summary["status"] == ("diverged" if seed else "done")
        assert summary["descent/lrs"] == [0.1, 299]
        assert summary["loss"] == 5.0  # the result overrides the last row
        assert summary["evals"] == want[-1]["evals"]
        metrics = [r.metric for r in records(file) if r.HasField("metric")]
        assert ("*", "step") in [(m.glob_name, m.step_metric) for m in metrics]
    assert capfd.readouterr() == ("", "")


def test_the_offline_folders_of_a_resumed_run_together_hold_every_row(tmp_path):
    first = opened(tmp_path / "r")
    for row in rows_of(0, 12)[:8]:
        first.log(row)
    first.abort()
    again = opened(tmp_path / "r")
    for row in rows_of(0, 12, start=5):  # continues from the checkpoint
        again.log(row)
    again.finish({})
    first.finish({})  # it is closed already: without effect
    early, late = offline(tmp_path / "r")
    if read(early)[2][0]["step"] != 0:  # names have seconds, and both began in the same one
        early, late = late, early
    assert read(early)[0].run_id == read(late)[0].run_id == "r0"
    assert [r.exit.exit_code for r in records(early) if r.HasField("exit")] == [1]
    union = {row["step"]: row for file in (early, late) for row in read(file)[2]}
    assert list(union.values()) == rows_of(0, 12)


def test_the_mirror_of_a_run_without_rows_holds_only_its_results(tmp_path):
    opened(tmp_path / "r").finish({"value": 1.0})
    assert read(offline(tmp_path / "r")[0])[2:] == ([], {"value": 1.0})


def test_a_mirror_that_is_not_live_writes_the_same_rows_at_the_end(tmp_path, capfd):
    mirror = opened(tmp_path / "r", live=False)
    with (tmp_path / "r/metrics.jsonl").open("w") as file:
        for row in rows_of(0) + [{"step": 300, "loss": math.nan, "descent/lrs": [1, 2]}]:
            file.write(json.dumps(row) + "\n")
            mirror.log(row)
    assert not (tmp_path / "r/wandb").exists()
    mirror.finish({"value": 1.0})
    _, config, rows, summary = read(offline(tmp_path / "r")[0])
    assert rows[:-1] == rows_of(0)
    assert rows[-1]["step"] == 300
    assert rows[-1]["loss"] == "NaN" or math.isnan(rows[-1]["loss"])
    assert config["meta"] == META
    assert summary["value"] == 1.0
    assert summary["descent/lrs"] == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_run_continues_if_wandb_cannot_start(tmp_path, capfd, monkeypatch):
    import wandb

    calls = []

    def broken(**_):
        calls.append(1)
        raise RuntimeError("out of disk")

    monkeypatch.setattr(wandb, "init", broken)
    for key in "ab":
        for live in (True, False):
            mirror = opened(tmp_path / key, key, live=live)
            mirror.log({"step": 0, "loss": 1.0})
            mirror.finish({"value": 1.0})
            mirror.abort()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == len(calls) == 1  # this process does not try again
    assert "RuntimeError: out of disk" in err and "tracker=none" in err


@pytest.mark.parametrize("where", ["log", "summary", "finish"])
def test_a_run_continues_if_wandb_fails_later(tmp_path, capfd, monkeypatch, where):
    import wandb

    class Run:
        summary: dict | None = None if where == "summary" else {}

        def define_metric(self, *_, **__): ...

        def log(self, *_, **__):
            if where == "log":
                raise ConnectionResetError("Connection lost")

        def finish(self, **_):
            if where == "finish":
                raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    mirror = opened(tmp_path / "r")
    for k in range(3):
        mirror.log({"step": k})
    mirror.finish({"value": 1.0})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("sa: the W&B mirror broke (")


CLEAN = """
import sys
import time
from pathlib import Path
from sa.tracking.wandb import Wandb
mode, folder = sys.argv[1], Path(sys.argv[2])
mirror = Wandb(mode=mode).open(
    "r0", folder, {}, {}, group=None, job_type="probe", name="x", tags=[]
)
mirror.log({"step": 0, "loss": 0.1})
mirror.finish({"value": 0.1})
sys.exit(7 if "wandb" in sys.modules else 6)
"""


@pytest.mark.parametrize("mode, code", [("disabled", 6), ("offline", 7), ("online", 7)])
def test_without_network_and_key_wandb_asks_no_question(tmp_path, mode, code):
    """In a new process every proxy is a dead end, and a question would read from a terminal."""
    dead = {f"{k}_PROXY": "http://127.0.0.1:9" for k in ("HTTP", "HTTPS", "ALL")}
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, mode, str(tmp_path)],
        env={**os.environ, **dead, "PYTHONWARNINGS": "default"},
        cwd=Path(tracker.__file__).parents[2],
        stdin=slave,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(master)
    os.close(slave)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    if mode == "online":
        assert "no API key" in done.stderr or "No API key" in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""
    if mode == "offline":
        assert read(offline(tmp_path)[0])[2] == [{"step": 0, "loss": 0.1}]
    else:
        assert offline(tmp_path) == []


def test_invalid_settings_of_the_tracker_are_refused():
    with pytest.raises(ValueError, match="offline"):
        Wandb(mode="ofline")  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match="projct"):
        Wandb(projct="sa")  # type: ignore[call-arg]


@pytest.mark.parametrize("name, mode", [("wandb", "offline"), ("none", "disabled")])
def test_the_tracker_yaml_files_name_every_setting_of_their_class(name, mode):
    import yaml

    file = Path(tracker.__file__).parents[2] / f"conf/tracker/{name}.yaml"
    fields = yaml.safe_load(file.read_text())
    assert file.read_text().startswith("# ")
    assert fields.pop("_target_") == "sa.tracking.wandb.Wandb"
    assert Wandb(**fields) == Wandb(mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes, name, job",
    [
        ({}, "nes-d32-n5000-s0.01-seed0", "probe"),
        ({"steps": 10, "seed": 3}, "nes-d32-n5000-s0.01-seed3", "train"),
        (
            {"estimator": {"_target_": "sa.estimator.ste.STE", "surrogate": "clipped"}},
            "ste-clipped-d32-seed0",
            "probe",
        ),
        (
            {"estimator": {"_target_": "sa.estimator.cdg.CDG", "epsilon": 0.1}},
            "cdg-d32-e0.1-seed0",
            "probe",
        ),
    ],
)
def test_the_wandb_name_of_a_run_lists_its_main_settings(changes, name, job):
    told = describe(CONFIG | changes, {"experiment": "cosine"})
    assert told["name"] == name
    assert told["job_type"] == job
    assert told["tags"] == [name.split("-")[0], "none/sign", "gaussian", "toy_mlp", "cosine"]
