"""Spectral trainings, the flow and a branch end with the same bits if their process is killed.

The process is killed between two checkpoints, at a step that does not renew the top directions.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import killed
from hydra.core.global_hydra import GlobalHydra

from sa import run

REFRESH, STEPS, SAVED, DEAD = 7, 150, 68, 72
WORDS = [
    "dataset=digits", "model=fc_tanh", "model.shape=[1,8,8]", "model.hidden=[12]", "quantizer=fp",
    "criterion=mse", "optimizer.lr=1.0", "dtype=float32", "analysis=[]", "tracker=none",
    f"steps={STEPS}", f"estimator.refresh={REFRESH}", "progress=false",
]  # fmt: skip
SPECTRAL = ["estimator=spectral", "estimator.mode=dynamic", "estimator.momentum=0.5"]
BRANCH = ["estimator=spectral", "estimator.blocks=module", "init=gd_300", "init.steps=20"]


def typed(words: list[str], root: Path, monkeypatch, capfd) -> tuple[Path, str]:
    """Run a command in this process; return the folder of its run and what it printed."""
    GlobalHydra.instance().clear()
    monkeypatch.setenv("SA_ROOT", str(root))
    monkeypatch.setattr(sys, "argv", ["sa", *words])
    run.main()
    out = capfd.readouterr().out
    return Path(out.strip().splitlines()[-1].removeprefix("run: ")), out


def same(one, other) -> bool:
    """Return whether two checkpoints hold the same bits; NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@pytest.mark.parametrize(
    "words", [SPECTRAL, ["estimator=flow"], BRANCH], ids=["spectral", "flow", "branch"]
)
def test_a_run_killed_between_checkpoints_and_repeated_ends_with_the_same_bits(
    words, tmp_path, monkeypatch, capfd
):
    words = WORDS + words
    whole, _ = typed(words, tmp_path / "whole", monkeypatch, capfd)
    killed(words, os.environ | {"SA_ROOT": str(tmp_path / "killed")}, at=DEAD, saved=SAVED)
    left = tmp_path / "killed" / "runs" / whole.name
    assert (left / "metrics.jsonl").read_bytes().count(b"\n") == DEAD + 1
    saved = torch.load(left / "checkpoint.pt", weights_only=True)
    assert saved["step"] == SAVED and saved["estimator"]["age"] % REFRESH
    again, out = typed(words, tmp_path / "killed", monkeypatch, capfd)
    assert again.name == whole.name and f"going on from step {SAVED} of {STEPS}" in out
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    rows = [json.loads(x) for x in (again / "metrics.jsonl").read_text().splitlines()]
    told = {"sharpness", "inner"} if "estimator=flow" in words else {"gamma", "refreshed"}
    assert [r["step"] for r in rows] == list(range(STEPS + 1)) and told <= rows[SAVED].keys()
    assert any("lambda_1" in k or k == "sharpness" for k in rows[SAVED])
    one, other = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (again, whole))
    assert one.pop("seconds") != other.pop("seconds") and same(one, other)
