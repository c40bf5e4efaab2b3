"""Typed settings: their order, unknown names, and notes about settings without effect."""

import json
from pathlib import Path

import pytest
from commands import SMALL, folder

from sa.config.argv import settings_first
from sa.config.catalogue import options
from sa.record import sweep


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("dim=4 --cfg job seed=1", "dim=4 seed=1 --cfg job"),
        ("-m dim=4 --config-dir a=b hydra=x", "dim=4 hydra=x -m --config-dir a=b"),
        ("--info dim=4 -cn config seed=1", "dim=4 seed=1 --info -cn config"),
        ("--config-dir=c ~schedule seed=1", "~schedule seed=1 --config-dir=c"),
    ],
)  # fmt: skip
def test_options_may_stand_anywhere_among_settings(typed, ordered):
    assert settings_first(typed.split()) == ordered.split()


def test_a_setting_typed_after_an_option_takes_effect(sa):
    code, out, _ = sa("dim=3", "--cfg", "job", "dataset.n=77")
    assert code == 0 and "dim: 3\n" in out and "'n': 77\n" in out


def test_a_misspelt_launcher_setting_gets_a_suggestion(sa):
    words = ["-m", *SMALL, "seed=0,1", "hydra/launcher=slurm", "sweep.dry_run=true"]
    err = sa(*words, "hydra.launcher.tme=3")[2]
    assert "did you mean hydra.launcher.time?" in err
    err = sa(*words, "hydra.launcher.extra={nodelist: n1}")[2]
    assert "no such setting" not in err


def test_an_unknown_option_is_refused_with_a_suggestion(sa):
    code, _, err = sa("--hlep")
    assert code == 2 and "--hlep: there is no such option; did you mean --help?" in err
    code, _, err = sa("--frozen")
    assert code == 2 and "expected folders of frozen runs" in err


@pytest.mark.parametrize("words", [["quantizer=[]"], ["~quantizer"], ["~root"]])
def test_removing_a_required_setting_is_refused_with_what_to_type(sa, words):
    code, _, err = sa(*SMALL, *words)
    assert code == 2 and "Error executing" not in err and "Traceback" not in err
    assert words[0].strip("~=[]") + (": cannot" if "quantizer" in words[0] else "=null") in err


def test_the_root_folder_may_be_named_by_a_number(sa):
    code, out, err = sa(*SMALL, "analysis=[]", "root=2")
    assert code == 0 and folder(out).parts[0] == "2", err


def test_typed_settings_override_those_of_the_full_size(sa):
    words = ["-m", "experiment=descent_dims", "size=full", "dim=4", "sweep.dry_run=true"]
    code, out, err = sa(*words)
    assert code == 0 and "20 points" in out and "dim=4" not in out, err
    assert "seed=4" in out


def test_a_typed_root_overrides_the_root_of_the_environment(sa, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_ROOT", str(tmp_path / "there"))
    assert folder(sa(*SMALL)[1]).parent == tmp_path / "there" / "runs"
    assert folder(sa(*SMALL, "root=here")[1]) == Path("here/runs") / folder(sa(*SMALL)[1]).name


@pytest.mark.parametrize(("words", "told"), [
    (["dim=4,8"], True), (["seed=0,1"], False), (["replicas=2", "dim=4,8"], False),
])  # fmt: skip
def test_bands_over_a_single_seed_are_noted_before_any_run(sa, words, told):
    given = [w for w in SMALL if not (w.startswith("analysis") and "replicas=2" in words)]
    code, _, err = sa("-m", *given, *words, "figure=[bands]", "sweep.dry_run=true")
    assert ("every point has the same seed" in err) == told


def test_a_setting_of_every_swept_estimator_is_accepted_if_the_default_one_lacks_it(sa):
    """The default estimator has no setting `samples`; every swept one has it."""
    code, out, err = sa("-m", *SMALL, "estimator=nes,nes_vanilla", "estimator.samples=20")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines() if "/2  " in line] == [
        "estimator=nes",
        "estimator=nes_vanilla",
    ]
    kept = json.loads((next(Path("runs").iterdir()) / "meta.json").read_text())
    assert kept["argv"] == ["-m", *SMALL, "estimator=nes,nes_vanilla", "estimator.samples=20"]
    code, out, err = sa("-m", *SMALL, "estimator=glob(nes*)", "sweep.dry_run=true")
    members = sum(name.startswith("nes") for name in options("estimator"))
    assert code == 0 and f"{members} points" in out, err


def test_a_single_run_notes_settings_that_need_a_sweep_or_a_training(sa):
    _, _, err = sa("experiment=descent_dims", "dataset.n=128", "tracker=none")
    assert "sweeps dim, estimator, seed" in err and "-m experiment=descent_dims" in err
    _, _, err = sa(*SMALL, "figure=[curves]", "metric=nonsense")
    assert "a single probe has none" in err and "metric=nonsense" in err


def test_a_typed_setting_that_listed_points_override_is_refused_or_noted(sa):
    words = ["-m", *SMALL, "sweep.dry_run=true", "sweep.points=['dim=5 seed=1','seed=2']"]
    code, _, err = sa(*words, "seed=3")
    assert code == 2 and "seed: every one of the listed points sets it" in err
    code, out, err = sa(*words)
    assert code == 0 and "note: dim: 1 of the 2 listed points set their own" in err
    assert "dim=5 seed=1" in out


@pytest.mark.parametrize("key", ["zip", "points", "exclude"])
def test_a_sweep_list_without_brackets_is_refused(sa, key):
    for given in ("seed", "3"):
        code, _, err = sa("-m", *SMALL, "seed=0,1", f"sweep.{key}={given}")
        assert code == 2 and f"sweep.{key}={given}: expected a list" in err, err


def test_a_dry_run_under_an_existing_name_prints_its_plan_and_a_note(sa):
    words = ["-m", *SMALL, "analysis=[]", "sweep.name=one"]
    sa(*words, "seed=0,1")
    code, out, err = sa(*words, "seed=1,2", "sweep.dry_run=true")
    assert code == 0 and "2 points, 1 of 2 to do" in out
    assert "note: sweep.name=one: that sweep exists already, with 1 point" in err
    assert len(sweep.read_manifest(".", "one")[1]) == 2


def test_sweep_settings_typed_for_a_single_run_are_noted(sa):
    code, _, err = sa(*SMALL, "hydra/launcher=local", "sweep.points=['dim=3']", "analysis=[]")
    assert code == 0 and "has no effect on one run; write -m to sweep" in err
    assert "sweep.points" in err and "hydra/launcher=local" in err
