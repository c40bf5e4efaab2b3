"""A run that is killed and repeated ends with the numbers of an undisturbed run."""

import json
import os

import pytest
import torch
import yaml
from commands import SMALL, folder, python
from conftest import killed

from sa.config.build import build
from sa.job import execute
from sa.record import identity
from sa.record import run as record


def test_a_resumed_run_sends_wandb_the_rows_that_a_kill_may_have_lost(sa, monkeypatch):
    """W&B writes in blocks, so the file of a run killed at step 6 may hold no row at all."""
    words = [*SMALL, "analysis=[]", "steps=9", "checkpoint_seconds=0"]
    mirrored, append = [], record.Record.append

    def killed_at_6(self, row):
        append(self, row)
        if row["step"] == 6:
            raise KeyboardInterrupt

    class Mirror:
        log, finish, abort = mirrored.append, lambda *_: None, lambda *_: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.Record, "append", killed_at_6)
        assert sa(*words)[0] == 130
    monkeypatch.setattr(execute, "_mirror", lambda *_: Mirror)
    code, out, _ = sa(*words)
    assert code == 0 and "going on from step 5 of 9" in out
    assert mirrored == record.read_rows(folder(out))


def test_repeating_a_finished_run_computes_nothing(sa):
    first = folder(sa(*SMALL)[1])
    stamp = (first / "result.json").stat().st_mtime_ns
    # bookkeeping, and the same values written in another way, give the same run
    code, out, _ = sa(*SMALL, "threads=2", "estimator.scale=null", "progress=false")
    assert code == 0 and folder(out) == first
    assert (first / "result.json").stat().st_mtime_ns == stamp
    assert folder(sa(*SMALL, "seed=1")[1]) != first


def test_settings_added_after_a_run_keep_its_id(sa):
    kept = folder(sa(*SMALL)[1])
    config = yaml.safe_load((kept / "config.yaml").read_text())
    younger = identity.LATER | set(identity.DEFAULTS)
    assert set(config) >= younger
    old = {k: v for k, v in config.items() if k not in younger}
    assert identity.run_id(old) == kept.name != identity.run_id(old | {"clip": 1.0})
    build(old)  # an older configuration can still be run


def test_a_stopped_training_with_every_feature_on_resumes_to_the_same_numbers(sa, monkeypatch):

    words = ["model=cnn", "dataset=digits", "quantizer=bwba", "analysis=[]", "tracker=none"]
    words += ["epochs=2", "batch_size=128", "evaluate_every=5", "schedule=cosine", "average=ema"]
    words += ["schedule.warmup=4", "average.decay=0.9", "recalibrate=true", "clip=0.3"]
    words += ["optimizer=adam", "optimizer.weight_decay=0.1", "until={ema/train/loss:0.01}"]
    words += ["model.channels=[3,4]", "checkpoint_seconds=0", "dtype=float32"]
    whole = folder(sa(*words, "root=calm")[1])
    sound, calls = torch.save, []

    def killed(state, path):
        calls.append(path)
        if len(calls) > 8:
            raise KeyboardInterrupt
        sound(state, path)

    monkeypatch.setattr(torch, "save", killed)
    assert sa(*words)[0] == 130
    monkeypatch.setattr(torch, "save", sound)
    code, out, err = sa(*words)
    assert code == 0 and "going on from step 7 of 22" in out, (out, err)
    again = folder(out)
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    mine, theirs = (json.loads((p / "result.json").read_text()) for p in (again, whole))
    assert mine | {"seconds": 0} == theirs | {"seconds": 0}
    ours, other = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (again, whole))
    for name, value in ours["average"]["params"].items():
        assert torch.equal(value, other["average"]["params"][name])


def test_a_training_killed_half_way_resumes_to_the_same_numbers(tmp_path):
    words = ["-m", "sa.run", "experiment=digits_ste", "steps=600", "tracker=none", "figure=[]"]
    whole = python(*words, cwd=tmp_path / "..", env=os.environ | {"SA_ROOT": str(tmp_path / "a")})
    assert whole.returncode == 0, whole.stderr
    env = os.environ | {"SA_ROOT": str(tmp_path / "b")}
    killed(words[2:], env, at=300, saved=250)
    kept = next((tmp_path / "b" / "runs").iterdir())
    assert not (kept / "result.json").exists() and record.state(kept) == "lost"
    again = python(*words, env=env)
    assert again.returncode == 0, again.stderr
    assert "going on from step 250 of 600" in again.stdout
    other = tmp_path / "a" / "runs" / kept.name
    mine, theirs = (json.loads((p / "result.json").read_text()) for p in (kept, other))
    mine.pop("seconds"), theirs.pop("seconds")
    assert mine == theirs
    assert (kept / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()

    mine, theirs = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (kept, other))
    for name, value in mine["params"].items():
        assert torch.equal(value, theirs["params"][name])


def test_a_killed_probe_resumes_in_the_middle_of_its_differences(tmp_path):
    words = ["-m", "sa.run", "model=cnn", "dataset=digits", "estimator=cdg", "analysis=[]"]
    words += ["model.channels=[2,3]", "tracker=none"]  # batch statistics need brute force
    calm = python(*words, env=os.environ | {"SA_ROOT": str(tmp_path / "a")})
    assert calm.returncode == 0, calm.stderr
    env = os.environ | {"SA_ROOT": str(tmp_path / "b")}
    killed(words[2:], env, file="partial.pt")
    kept = next((tmp_path / "b" / "runs").iterdir())
    assert (kept / "partial.pt").exists() and not (kept / "result.json").exists()
    again = python(*words, env=env)
    assert again.returncode == 0, again.stderr
    results = [json.loads((tmp_path / k / "runs" / kept.name / "result.json").read_text())
               for k in "ab"]  # fmt: skip
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert not (kept / "partial.pt").exists()


def test_a_partial_result_saved_at_a_later_step_is_used_only_at_that_step(tmp_path):
    class Kept:
        folder = tmp_path

        def save(self, write, name):
            write(tmp_path / name)

    first = execute._Partial(Kept(), 0, 3)
    number, before = first.take()
    assert before == {}
    first.keep(number, {"done": 7})
    again = execute._Partial(Kept(), 1e9, 2)  # the checkpoint belongs to the step before
    assert again.take() == (0, {})
    again.begin(3)
    assert again.take() == (0, {"done": 7}) and again.take() == (1, {})
    again.begin(4)
    assert again.take() == (0, {}) and not (tmp_path / "partial.pt").exists()
