"""A run on several processes gives the numbers of one process, and ends if a process is killed."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.record import run as record
from sa.training import ranks

WORDS = (
    "dataset=digits model=cnn model.channels=[4,4] model.pool=none batchnorm=running batch_size=33 "
    "analysis=[] tracker=none optimizer=adam evaluate_every=5 progress=false"
).split()


@pytest.fixture
def sa(monkeypatch, tmp_path):
    """Return a function that types a command in an empty folder: (exit code, run folder)."""
    monkeypatch.chdir(tmp_path)

    def typed(*words, root):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sa", *WORDS, *words, f"root={root}"])
        code = 0
        try:
            run.main()
        except SystemExit as end:
            code = end.code
        (found,) = Path(root).glob("runs/*")
        return code, found

    return typed


def same(mine, theirs, rel=1e-9):
    """Return whether two runs have the same rows up to rounding."""
    mine, theirs = record.read_rows(mine), record.read_rows(theirs)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.pop("stopped", None) == b.pop("stopped", None)
        assert a == pytest.approx(b, rel=rel)


def test_processes_share_all_rows_once_and_their_parts_differ_by_one_row_at_most():
    for rows, world in ((7, 3), (33, 2), (4, 4), (1000, 7)):
        parts = []
        for rank in range(world):
            ring = object.__new__(ranks.Ring)
            ring.rank, ring.world = rank, world
            parts.append(ring.part(rows))
        assert parts[0][0] == 0 and parts[-1][1] == rows
        assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))
        sizes = [b - a for a, b in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_killed_process_ends_the_run_and_a_repeat_equals_one_process(sa, capfd):
    """The batch has an odd number of rows, and BatchNorm's statistics change at every step."""
    words = ["steps=40", "checkpoint_seconds=0"]
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before, append = set(children.read_text().split()), record.Record.append

    def kill(self, row):
        append(self, row)
        if row["step"] == 5:
            (child,) = set(children.read_text().split()) - before
            os.kill(int(child), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.Record, "append", kill)
        code, found = sa(*words, "processes=2", root="x")
    assert code == 1 and "rank 1 of 2 ended by SIGKILL" in capfd.readouterr().err
    status = record.load_status(found)
    assert status["state"] == "failed" and "repeat the command" in status["error"]
    code, _ = sa(*words, "processes=2", root="x")
    assert code == 0 and "going on from step 5 of 40" in capfd.readouterr().out
    code, calm = sa(*words, root="calm")
    assert code == 0 and calm.name == found.name  # processes are no part of the run id
    same(found, calm)
    saved = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (found, calm)]
    for kind in ("params", "buffers"):
        for name, p in saved[0][kind].items():
            torch.testing.assert_close(p, saved[1][kind][name], rtol=1e-9, atol=1e-11)


def test_several_processes_reach_a_goal_at_the_same_step_as_one(sa):
    """A full-batch step computes all scores, so a goal can end the run between two evaluations."""
    words = ["batch_size=null", "evaluate_every=50", "optimizer.lr=0.01"]
    _, whole = sa(*words, "steps=4", root="whole")
    losses = [row["train/loss"] for row in record.read_rows(whole)]
    assert losses == sorted(losses, reverse=True)
    words += ["steps=40", f"until={{train/loss:{losses[2]:.6f}}}"]
    found = [sa(*words, *more, root=f"{len(more)}")[1] for more in ([], ["processes=2"])]
    assert record.read_rows(found[0])[-1]["step"] in (2, 3)
    same(*found)
