"""Spectral trainings, the flow and a branch: killed as processes, they end in the same bits.

What is killed is a process of its own, stopped first so that it is known where: between two
checkpoints, and not where a space is renewed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from sa import run

REFRESH, STEPS = 7, 150
WORDS = [
    "dataset=digits", "model=fc_tanh", "model.shape=[1,8,8]", "model.hidden=[12]", "quantizer=fp",
    "criterion=mse", "optimizer.lr=1.0", "dtype=float32", "analysis=[]", "tracker=none",
    f"steps={STEPS}", f"estimator.refresh={REFRESH}", "progress=false",
]  # fmt: skip
SPECTRAL = ["estimator=spectral", "estimator.mode=dynamic", "estimator.momentum=0.5"]
BRANCH = ["estimator=spectral", "estimator.blocks=module", "init=gd_300", "init.steps=20"]


def typed(words: list[str], root: Path, monkeypatch, capfd) -> tuple[Path, str]:
    """Type a command in this process: the folder of its run, and what was printed."""
    GlobalHydra.instance().clear()
    monkeypatch.setenv("SA_ROOT", str(root))
    monkeypatch.setattr(sys, "argv", ["sa", *words])
    run.main()
    out = capfd.readouterr().out
    return Path(out.strip().splitlines()[-1].removeprefix("run: ")), out


def killed(words: list[str], root: Path, name: str) -> int:
    """Start a command and kill it between two checkpoints; the step of the last."""
    env, kept = os.environ | {"SA_ROOT": str(root)}, root / "runs" / name
    command = [sys.executable, "-m", "sa.run", *words, "checkpoint_seconds=0.02"]
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        for _ in range(20_000):
            time.sleep(0.003)
            os.kill(child.pid, signal.SIGSTOP)  # what lies there is what a kill leaves
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), "it ended before it could be killed"
            if (kept / "checkpoint.pt").exists():
                saved = torch.load(kept / "checkpoint.pt", weights_only=True)
                rows = (kept / "metrics.jsonl").read_bytes().count(b"\n")
                if saved["estimator"]["age"] % REFRESH and rows > saved["step"] + 1:
                    return saved["step"]
            os.kill(child.pid, signal.SIGCONT)
        raise AssertionError("no moment between two checkpoints was found")
    finally:
        child.kill()
        child.wait()


def same(one, other) -> bool:
    """Whether two checkpoints hold the same numbers, bit for bit; nan is nan."""
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
def test_killed_between_checkpoints_and_repeated_it_ends_in_the_same_bits(
    words, tmp_path, monkeypatch, capfd
):
    words = WORDS + words
    whole, _ = typed(words, tmp_path / "whole", monkeypatch, capfd)
    at = killed(words, tmp_path / "killed", whole.name)
    again, out = typed(words, tmp_path / "killed", monkeypatch, capfd)
    assert again.name == whole.name and f"going on from step {at} of {STEPS}" in out
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    rows = [json.loads(x) for x in (again / "metrics.jsonl").read_text().splitlines()]
    told = {"sharpness", "inner"} if "estimator=flow" in words else {"gamma", "refreshed"}
    assert [r["step"] for r in rows] == list(range(STEPS + 1)) and told <= rows[at].keys()
    assert any("lambda_1" in k or k == "sharpness" for k in rows[at])
    one, other = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (again, whole))
    assert one.pop("seconds") != other.pop("seconds") and same(one, other)
