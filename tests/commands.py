"""Type commands in an empty folder, and read what they wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.config import component, search, trust
from sa.tracking import wandb

ROOT = Path(__file__).parents[1]


SMALL = ["dim=4", "dataset.n=128", "tracker=none", "figure=[]"]


@pytest.fixture
def sa(monkeypatch, capfd, tmp_path):
    """Type a command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_ROOT", raising=False)
    monkeypatch.setattr(wandb, "_BROKEN", [])
    monkeypatch.setattr(search, "_TYPED", [])
    if "SA_TRUST" not in os.environ:
        monkeypatch.setenv("SA_TRUST", "")  # what --trust adds goes with the test

    def typed(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sa", *words])
        code = 0
        try:
            run.main()
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err

    return typed


@pytest.fixture
def forget():
    """Forget the packages called mylab, and what was made of them: before the test, and after."""

    def clear():
        trust._load.cache_clear()
        trust.installed.cache_clear()
        component._MADE.clear()
        for name in [x for x in sys.modules if x.partition(".")[0] == "mylab"]:
            del sys.modules[name]

    clear()
    yield
    clear()


def folder(out, word="run"):
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"{word}: ")
    return Path(last.removeprefix(f"{word}: "))


def result(out):
    return json.loads((folder(out) / "result.json").read_text())


def python(*words, **kwargs):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **kwargs
    )
