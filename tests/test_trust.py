"""Whom a configuration may name: packages that the person trusts, and nothing that a file says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, SMALL, folder, python
from omegaconf import OmegaConf

from sa import multirun
from sa.config import guard, trust
from sa.config.error import UsageError
from sa.launch import snapshot
from sa.sweep.command import main as sweep

PACKAGE = {
    "__init__.py": "",
    "mine.py": """
        import torch
        from dataclasses import dataclass
        from sa.estimator.nes import NES
        from sa.types import Estimate

        @dataclass(frozen=True)
        class Mine:
            factor: float = 1.0
            target = "none"

            def init(self, params):
                return {}

            def __call__(self, objective, params, state, generator, at=None):
                value, grad = objective.value_and_grad(params)
                return Estimate(value, {k: self.factor * g for k, g in grad.items()}, 3.0)

        def function():
            raise RuntimeError("it ran")

        class Other:
            pass
        """,
}


@pytest.fixture
def mylab(tmp_path):
    """The folder that a package mylab lies in; importing it makes the file 'imported'."""
    (tmp_path / "mylab").mkdir()
    for name, text in PACKAGE.items():
        lines = [x.removeprefix(" " * 8) for x in text.splitlines()]
        (tmp_path / "mylab" / name).write_text("\n".join(lines))
    (tmp_path / "mylab" / "__init__.py").write_text("open('imported', 'w').close()\n")
    return tmp_path


def typed(where, *words, **env):
    env = {k: v for k, v in os.environ.items() if k != "SA_TRUST"} | env
    done = python("-m", "sa.run", *words, cwd=where, env=env | {"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout, done.stderr


MINE = ["estimator=random", "analysis=[]", "estimator._target_=mylab.mine.Mine", *SMALL]


def test_a_package_runs_only_if_the_person_trusts_it(mylab):
    code, _, err = typed(mylab, *MINE)
    assert code == 2 and "'mylab' is not trusted. A configuration never says" in err
    assert "SA_TRUST=mylab, --trust mylab, or by installing" in err
    assert not (mylab / "imported").exists() and not (mylab / "runs").exists()
    code, out, err = typed(mylab, *MINE, "--trust", "mylab")
    assert code == 0 and err.count(f"SA_TRUST: 'mylab' is {mylab / 'mylab'}") == 1, err
    run = mylab / folder(out)
    package = json.loads((run / "meta.json").read_text())["packages"]["mylab"]
    assert package["version"] == "SA_TRUST" and package["path"] == str(mylab / "mylab")
    code, again, _ = typed(mylab, *MINE, SA_TRUST="mylab,other")  # one id, whoever trusted it
    assert code == 0 and folder(again) == folder(out)


def test_workers_get_the_trust_of_the_command_and_no_file_gives_it(mylab):
    words = ["-m", *MINE, "seed=0,1", "hydra/launcher=local", "sweep.name=one"]
    code, out, err = typed(mylab, *words, "--trust=mylab")
    assert code == 0, err
    runs = list((mylab / "runs").iterdir())
    assert len(runs) == 2 and all((r / "result.json").exists() for r in runs)
    note = json.loads((runs[0] / "packages.json").read_text())
    assert note["mylab"]["version"] == "SA_TRUST"
    (runs[0] / "result.json").unlink()
    code, _, _ = typed(mylab, "--frozen", str(runs[0]))  # the records hold no trust
    assert code == 1 and "'mylab' is not trusted" in (runs[0] / "log.txt").read_text()
    (mylab / "mylab").rename(mylab / "gone")
    code, _, _ = typed(mylab, "--frozen", str(runs[0]), SA_TRUST="mylab")
    assert code == 1 and "Python does not find it here" in (runs[0] / "log.txt").read_text()


@pytest.fixture
def here(mylab, monkeypatch, forget):
    monkeypatch.syspath_prepend(mylab)
    monkeypatch.chdir(mylab)
    monkeypatch.setenv("SA_TRUST", "mylab")
    return mylab


def test_retry_asks_for_the_trust_of_the_person_and_names_the_command(
    mylab, sa, monkeypatch, capfd, forget
):
    monkeypatch.syspath_prepend(mylab)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = mylab / "mylab" / "mine.py"
    text = file.read_text()
    file.write_text(text.replace("value, grad =", "value, grad, absent ="))
    code, _, err = sa("-m", *MINE, "seed=0,1", "sweep.name=one", "--trust=mylab")
    assert code == 1 and "2 of 2 points failed" in err, err
    file.write_text(text)
    monkeypatch.setenv("SA_TRUST", "")
    for words, why in (
        ([], "type python -m sa.sweep retry one --trust mylab"),
        (["--trust", "torch"], "--trust torch: 'torch' is a library"),
        (["--trust", "my lab"], "'my lab' is not the name of a package"),
    ):
        assert sweep(["retry", "one", *words]) == 2 and why in capfd.readouterr().err
    assert not list(mylab.glob("runs/*/result.json"))
    assert sweep(["retry", "one", "--trust", "mylab"]) == 0
    assert "one: 2 points: 2 done" in capfd.readouterr().out
    monkeypatch.setenv("SA_TRUST", "")
    assert sweep(["retry", "one"]) == 0  # nothing is left that needs trust
    with pytest.raises(SystemExit):
        sweep(["status", "one", "--trust", "mylab"])
    assert "--trust works with `retry NAME` only" in capfd.readouterr().err


def test_a_check_and_a_sweep_from_python_take_trust(here, sa, monkeypatch):
    monkeypatch.setenv("SA_TRUST", "")
    words = [*MINE, "seed=0,1", "sweep.name=one"]
    with pytest.raises(UsageError, match="'mylab' is not trusted"):
        multirun(words)
    assert len(multirun([*words, "--trust", "mylab"])) == 2
    monkeypatch.setenv("SA_TRUST", "")
    code, out, err = sa("check", "--trust", "mylab", "mylab.mine:Mine")
    assert code in (0, 1) and "Mine, estimator:" in out, err


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("mylab.mine.NES", "name a class by the file that defines it"),  # a re-export
        ("mylab.mine.torch.nn.Linear", "there is no such class"),
        ("mylab.mine.function", "name a class by the file that defines it"),
        ("mylab.mine.torch", "name a class by the file that defines it"),
        ("mylab.mine.Absent", "there is no such class in mylab.mine"),
        ("other.mine.Mine", "'other' is not trusted"),
        ("mylabor.mine.Mine", "'mylabor' is not trusted"),
        ("os.system", "refused"), ("subprocess.Popen", "refused"), ("torch.nn.Linear", "refused"),
        ("builtins.eval", "refused"), ("sa.run.Command", "refused"), ("mylab", "refused"),
        ("mylab.mine.Mine()", "refused"), (["mylab.mine.Mine"], "refused"),
    ],
)  # fmt: skip
def test_only_classes_that_a_trusted_package_defines_are_allowed(here, target, why):
    assert trust.allowed("estimator", "mylab.mine.Mine").__name__ == "Mine"
    with pytest.raises(UsageError) as caught:
        trust.allowed("estimator", target)
    assert why in str(caught.value)


def test_a_class_of_another_room_is_refused(here, sa):
    code, _, err = sa(*SMALL, "estimator=random", "estimator._target_=mylab.mine.Other")
    assert code == 2 and "this class is not of the kind estimator" in err


@pytest.mark.parametrize("words", ["a-b", "mylab other", "os", "torch", "sa"])
def test_sa_trust_names_packages_and_no_libraries(monkeypatch, words):
    monkeypatch.setenv("SA_TRUST", words)
    with pytest.raises(UsageError, match="SA_TRUST="):
        trust.from_words([])


@pytest.mark.parametrize("words", [["--trust"], ["--trust", ""], ["--trust="]])
def test_trust_needs_a_name(words):
    with pytest.raises(UsageError, match="expected the name of a package"):
        trust.from_words(words)


def test_a_snapshot_keeps_the_code_of_a_package_and_of_the_files_beside_it(
    here, sa, monkeypatch, capfd
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    mine, helper = here / "mylab" / "mine.py", here / "mylab_helper.py"
    helper.write_text("FACTOR = 1.0\n")
    mine.write_text(f"from mylab_helper import FACTOR\n{mine.read_text()}")
    words = ["-m", *MINE, "seed=0,1", "sweep.name=one", "sweep.snapshot=true"]
    with monkeypatch.context() as limited:
        limited.setattr(snapshot, "LARGEST", 100)
        code, _, err = sa(*words)
    assert code == 2 and "'mylab' has 0 MB" in err and "mine.py; keep data" in err, err
    assert not Path("sweeps").exists()
    code, _, err = sa(*words)
    assert code == 0, err
    assert (here / "sweeps/one/code/mylab_helper.py").read_text() == "FACTOR = 1.0\n"
    first, second = sorted(Path("runs").iterdir())
    about = json.loads((first / "meta.json").read_text())["packages"]
    (first / "result.json").unlink()
    for file in (mine, helper):
        file.write_text("raise RuntimeError('edited')\n")
    assert sweep(["retry", "one"]) == 0, capfd.readouterr().err
    assert json.loads((first / "meta.json").read_text())["packages"] == about
    assert "this process has" not in (first / "log.txt").read_text()
    (second / "result.json").unlink()
    code, _, err = sa(*words, "hydra/launcher=local")  # a worker runs the copy, too
    assert code == 0 and "run the code that was copied on" in err, err
    assert json.loads((second / "meta.json").read_text())["packages"] == about


MADE = '${oc.create:"{_target_: os.mkdir, path: hit}"}'
HIDDEN = {  # an experiment's own lines: each would make the folder 'hit'
    "target": "estimator: {_target_: os.mkdir, path: hit}",
    "nested": "estimator: {surrogate: {_target_: os.mkdir, path: hit}}",
    "in a list": "estimator: {surrogate: [{_target_: os.mkdir, path: hit}]}",
    "computed twice": f"estimator: {{surrogate: '\\{MADE}'}}",
    "of the data": "dataset: {_target_: os.mkdir, path: hit, sha: ''}",
    "callback": "hydra: {callbacks: {a: {_target_: os.mkdir, path: hit}}}",
    "logger": "hydra: {job_logging: {version: 1, root: {level: INFO}, "
    "formatters: {a: {'()': os.mkdir, path: hit}}}}",
    "other logger": "hydra: {hydra_logging: {version: 1, root: {level: INFO}, "
    "formatters: {a: {'()': os.mkdir, path: hit}}}}",
    "environment": "hydra: {job: {env_set: {SA_TRUST: mylab}}}",
    "sweeper": "hydra: {sweeper: {params: {a: {_target_: os.mkdir, path: hit}}}}",
    "launcher": "hydra: {launcher: {setup: [{_target_: os.mkdir, path: hit}]}}",
    "launcher, computed": f"hydra: {{launcher: {{setup: '{MADE}'}}}}",
    "launcher, computed twice": f"hydra: {{launcher: {{setup: '\\{MADE}'}}}}",
}  # fmt: skip


@pytest.mark.parametrize("where", HIDDEN)
def test_nothing_that_a_file_says_runs(sa, tmp_path, where):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\ndescription: a stranger's\n{HIDDEN[where]}\n"
    (tmp_path / "own" / "experiment" / "x.yaml").write_text(text)
    sweeps = ["-m", "seed=0,1"] if where.startswith(("sweeper", "launcher")) else []
    sweeps += ["hydra/launcher=slurm"] if where.startswith("launcher") else []
    code, out, err = sa(*sweeps, *SMALL, "--config-dir", "own", "experiment=x")
    assert code == 2, (out, err)
    assert not Path("hit").exists() and not os.environ.get("SA_TRUST")


SHELL = {  # settings that become text of a job's script
    "setup": ("slurm", "hydra: {launcher: {setup: [mkdir hit]}}", "hydra.launcher.setup: refused"),
    "extra": ("slurm", "hydra: {launcher: {extra: {wrap: mkdir hit}}}", "launcher.extra: refused"),
    "a second line": ("slurm", 'hydra: {launcher: {qos: "a\\nmkdir hit"}}', "qos: refused"),
    "the whole launcher": ("slurm", f"hydra: {{launcher: '{MADE}'}}", "hydra.launcher: refused"),
    "the whole section": ("slurm", f"hydra: '{MADE}'", "hydra.launcher: refused"),
    "a size": ("slurm", "sizes: {quick: {hydra.launcher.setup: [[mkdir hit]]}}", "a size cannot"),
    "the root": ("slurm", 'root: "a\\nmkdir hit"', "root="),
    "a launcher's file": ("mine", "", "hydra.launcher.setup: refused"),
    "of submitit": ("submitit_slurm", "hydra: {launcher: {setup: [mkdir hit]}}", "setup: refused"),
    "options of submitit": (
        "submitit_slurm", "hydra: {launcher: {additional_parameters: {wrap: mkdir hit}}}",
        "additional_parameters: refused",
    ),
    "name of submitit": (
        "submitit_slurm", 'hydra: {job: {name: "a\\nmkdir hit"}}', "would start a new line"
    ),
}  # fmt: skip


def experiment(where, text):
    """Write an experiment and a launcher with shell text to a folder of options."""
    for group, name, said in (
        ("experiment", "x", f"# @package _global_\ndescription: a stranger's\n{text}\n"),
        ("hydra/launcher", "mine", "defaults: [slurm]\nsetup: [mkdir hit]\n"),
    ):
        (where / group).mkdir(parents=True)
        (where / group / f"{name}.yaml").write_text(said)


@pytest.mark.parametrize("where", SHELL)
def test_shell_text_of_a_file_is_refused(sa, tmp_path, where):
    launcher, text, said = SHELL[where]
    if launcher.startswith("submitit"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    experiment(tmp_path / "own", text)
    words = ["--config-dir", "own", "experiment=x", f"hydra/launcher={launcher}"]
    code, out, err = sa("-m", "seed=0,1", "sweep.dry_run=true", *SMALL, *words)
    assert code == 2 and said in err, (out, err)


def test_shell_text_is_taken_from_the_person_and_from_trusted_packages(here, sa):
    dry = ["-m", "seed=0,1", "sweep.dry_run=true", *SMALL]
    typed = ["hydra/launcher=slurm", "hydra.launcher.setup=[module load x]"]
    code, _, err = sa(*dry, *typed, "+hydra.launcher.extra.nodelist=n1")
    assert code == 0, err
    experiment(here / "mylab" / "conf", "hydra: {launcher: {extra: {nodelist: n1}}}")
    inside = ["--config-dir", "mylab/conf", "experiment=x", "hydra/launcher=mine"]
    code, _, err = sa(*dry, *inside)
    assert code == 0, err
    os.environ["SA_TRUST"] = ""
    code, _, err = sa(*dry, *inside)
    assert code == 2 and "type 'hydra.launcher.setup=[mkdir hit]', or keep" in err
    code, _, err = sa(*dry, "hydra/launcher=slurm", "hydra.launcher.setup=['a\nb']")
    assert code == 2 and "write one line" in err


def test_a_package_that_a_file_says_to_search_is_not_imported(mylab, sa):
    (mylab / "own").mkdir()
    text = "defaults: [config, _self_]\nhydra: {searchpath: ['pkg://mylab']}\n"
    (mylab / "own" / "first.yaml").write_text(text)
    code, _, err = sa("--config-dir", "own", "--config-name", "first", "--cfg", "job")
    assert code == 2 and "names pkg://mylab, and Hydra would run that package" in err
    assert not (mylab / "imported").exists()


def test_a_file_may_set_numbers_and_plain_words_of_a_launcher_and_calls_nothing(tmp_path):
    plain = {"partition": "main", "cpus": 2, "memory_gb": 1.5, "requeue": False, "setup": []}
    guard.check_file(OmegaConf.create({"hydra": {"launcher": plain}}), "file://own")
    calls = {"hydra": {"sweeper": {"custom_search_space": "os.mkdir"}}}
    with pytest.raises(UsageError, match="sweeper.custom_search_space: refused, a file in own"):
        guard.check_file(OmegaConf.create(calls), "file://own")


def test_a_pickle_in_an_npz_does_not_run(sa, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, ("hit",))

    whole = np.array([Evil()] * 4, dtype=object)
    np.savez(tmp_path / "my.npz", inputs=whole, targets=np.zeros(4))
    code, _, err = sa("dataset=arrays", f"dataset.path={tmp_path / 'my.npz'}", "model=mlp", *SMALL)
    assert code == 2 and not Path("hit").exists(), err
