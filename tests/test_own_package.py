"""A package outside of sa, examples/mylab, installed beside sa in an environment of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from commands import ROOT, folder

MYLAB = ROOT / "examples" / "mylab"
RUN = ["experiment=rings_half", "steps=2", "tracker=none", "figure=[]"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Call the Python of an environment with sa and mylab installed from their wheels."""
    where = tmp_path_factory.mktemp("clean")
    new = [sys.executable, "-m", "venv", "--without-pip", str(where / "venv")]
    subprocess.run(new, check=True, timeout=120)
    (packages,) = where.glob("venv/lib/python*/site-packages")
    # the heavy dependencies come from here by path; the editable install of sa does not
    (packages / "dependencies.pth").write_text(f"{Path(numpy.__file__).parents[1]}\n")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
               "--no-index", "--target", str(packages), str(ROOT), str(MYLAB)]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SA_TRUST", "SA_ROOT")}

    def call(*words, cwd):
        return subprocess.run(
            [where / "venv" / "bin" / "python", *words],
            capture_output=True, text=True, cwd=cwd, env=env, timeout=300,
        )  # fmt: skip

    return call


def test_an_installed_package_is_trusted_listed_run_and_recorded(
    python, tmp_path, sa, monkeypatch, forget
):
    page = python("-m", "sa.run", "--help", "estimator", cwd=tmp_path)
    assert "half_nes           NES that moves half of the coordinates at a time [mylab 0.1.0]" in (
        page.stdout
    )
    done = python("-m", "sa.run", *RUN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / folder(done.stdout)
    told = json.loads((run / "meta.json").read_text())["packages"]["mylab"]
    assert told["version"] == "0.1.0" and "site-packages" in told["path"]
    # trusted in another way it is the same run
    monkeypatch.syspath_prepend(MYLAB)
    monkeypatch.setenv("SA_TRUST", "mylab")
    conf = f"--config-dir={MYLAB / 'mylab' / 'conf'}"
    code, out, err = sa(conf, *RUN, "sweep.dry_run=true")
    assert code == 0 and f"run id {run.name}: done" in out, err
    monkeypatch.setenv("SA_TRUST", "")
    code, _, err = sa(conf, *RUN)
    assert code == 2 and "'mylab' is not trusted" in err


def test_laws_of_an_installed_package(python, tmp_path):
    (tmp_path / "test_laws.py").write_text((MYLAB / "tests" / "test_laws.py").read_text())
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_laws.py", cwd=tmp_path)
    assert tests.returncode == 0 and "5 passed" in tests.stdout, tests.stdout + tests.stderr
    text = (MYLAB / "mylab" / "half_nes.py").read_text()
    assert "slope @ e / self.samples" in text
    (tmp_path / "twice.py").write_text(text.replace("slope @ e", "2 * slope @ e"))
    broken = python("-m", "sa.run", "check", "twice:HalfNES", cwd=tmp_path)
    assert broken.returncode == 1 and "holds    evals" in broken.stdout, broken.stderr
    assert "BROKEN   unbiased: " in broken.stdout
    found = re.search(r"along that gradient its length is ([\d.]+) \(expected 1\)", broken.stdout)
    assert found and abs(float(found[1]) - 2) < 0.2


def test_exact_differences_of_its_quantizer_are_fast(sa, monkeypatch, forget):
    monkeypatch.syspath_prepend(MYLAB)
    monkeypatch.setenv("SA_TRUST", "mylab")
    conf = f"--config-dir={MYLAB / 'mylab' / 'conf'}"
    words = ["estimator=cdg", "estimator.path=fast", "estimator.epsilon=0.1", "steps=0"]
    code, out, err = sa(conf, *RUN, *words)
    assert code == 0, err
    code, _, err = sa(conf, *RUN, "quantizer/activation=dead_zonee")
    assert code == 2 and "did you mean quantizer/activation=dead_zone?" in err
