"""The W&B workspace is built offline, equals its snapshot, and is not saved without a key."""

import json
import sys
from pathlib import Path

import pytest

from sa import dashboard
from sa.sweep.series import SERIES
from sa.sweep.view import KEYS

SNAPSHOT = Path(__file__).with_name("dashboard.json")
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
COMMAND = f"python -m sa.dashboard json > tests/{SNAPSHOT.name}"


@pytest.fixture(autouse=True)
def keyless(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def library():
    pytest.importorskip("wandb_workspaces", reason="needs pip install -e '.[dashboard]'")


def test_the_workspace_equals_the_snapshot(library, capsys):
    assert dashboard.main(["json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told) == json.loads(SNAPSHOT.read_text()), f"meant? then: {COMMAND}"


def test_panels_show_results_that_runs_record(library):
    bank = dashboard.document("me", "sa")["spec"]["section"]["panelBankConfig"]
    names = [s["name"] for s in bank["sections"]]
    assert names == ["probes", "trainings over step", "trainings over evals"]
    known = {*KEYS, *SERIES, "step"}
    for panel in (p["config"] for s in bank["sections"] for p in s["panels"]):
        axes = [panel.get(k, "") for k in ("xAxis", "yAxis")] + panel.get("metrics", [])
        shown = {a.removeprefix("summary:") for a in axes if a and not a.startswith("config:")}
        assert shown <= known, panel["chartTitle"]


def test_a_missing_key_is_reported(library, capsys):
    assert dashboard.main(["push"]) == 2
    assert "no API key of W&B: type `wandb login`" in capsys.readouterr().err


def test_a_missing_library_is_reported_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert dashboard.main(["json"]) == 2
    assert "pip install -c constraints.txt -e '.[dashboard]'" in capsys.readouterr().err


def test_an_error_of_wandb_is_one_line(library, monkeypatch, capsys):
    import wandb
    import wandb_workspaces.workspaces as ws

    def refused(self):
        raise PermissionError("not yours")

    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    monkeypatch.setattr(ws.Workspace, "save", refused)
    assert dashboard.main(["push", "--entity", "me"]) == 1
    assert capsys.readouterr().err == "sa: push: PermissionError: not yours\n"
