"""The first steps of a new user: the README's commands, the wheel, the notebooks, W&B files."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from commands import ROOT, SMALL, folder, python, result

from sa.record import run as record


def test_digits_ste_reaches_ninety_percent(tmp_path):
    done = python("-m", "sa.run", "experiment=digits_ste", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / folder(done.stdout)
    assert json.loads((kept / "result.json").read_text())["test/accuracy"] >= 0.9
    assert (kept / "figures" / "curves.png").stat().st_size > 10_000
    assert list(kept.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path):
    made = python(
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert python("-m", "venv", str(tmp_path / "venv")).returncode == 0
    inside = tmp_path / "venv" / "bin" / "python"
    # heavy dependencies are found by path here; the editable install of sa is left out
    import numpy

    site = Path(numpy.__file__).parents[1]
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{site}\n")
    subprocess.run([inside, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)

    def typed(*words):
        return subprocess.run(
            words, capture_output=True, text=True, cwd=tmp_path, timeout=120,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip

    told = typed(inside, "-c", "from sa.config.catalogue import CONF; print(CONF)")
    assert Path(told.stdout.strip()) == packages / "sa" / "conf"
    assert "estimator=" in typed(tmp_path / "venv" / "bin" / "sa", "--help").stdout
    done = typed(tmp_path / "venv" / "bin" / "sa", "-m", *SMALL, "seed=0,1", "analysis=[]")
    assert done.returncode == 0, done.stderr
    assert "sweep: " in done.stdout and (tmp_path / "runs").exists()


def test_the_wandb_files_of_a_run_hold_its_configuration_rows_and_results(sa):
    from test_tracker import offline, read

    words = ["experiment=digits_ste", "steps=30", "evaluate_every=10", "figure=[]"]
    code, out, err = sa(*words)
    assert code == 0 and not err, err
    (file,) = offline(folder(out))
    head, config, rows, summary = read(file)
    assert head.run_id == folder(out).name and head.job_type == "train"
    assert head.run_group == "digits_ste"
    assert {"ste", "none/sign", "digits", "mlp", "digits_ste"} <= set(head.tags)
    assert rows == record.read_rows(folder(out)) and len(rows) == 31
    assert config["steps"] == 30 and config["meta"]["seed"] == 0
    assert summary["test/accuracy"] == result(out)["test/accuracy"]


def test_the_readme_code_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    space: dict = {}
    exec(code, space)
    assert space["got"].evals == 1001 and space["got"].grad["a.weight"].shape == (16, 8)
    assert space["exact"].evals < 10 and space["losses"][-1] < space["losses"][0]


def test_the_notebooks_read_what_a_sweep_wrote(sa, monkeypatch):
    code, _, err = sa("-m", *SMALL, "estimator=cdg,nes_orthogonal", "sweep.name=descent_dims")
    assert code == 0, err
    monkeypatch.setenv("SA_ROOT", ".")
    for page in (ROOT / "notebooks").glob("*.ipynb"):
        space: dict = {}
        for cell in json.loads(page.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), space)
        assert len(space["best"].mean()) == 2
