"""Completion of a command line: the words offered at the cursor, in Python and in a real bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sa.config.catalogue import options
from sa.config.completion import BASH, candidates
from sa.config.flags import FLAGS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("current", "typed", "found"), [
    ("estimator=st_", (), ["estimator=st_gumbel"]),
    ("estimator=cdg,xn", (), ["estimator=cdg,xnes"]),
    ("analysis=[alignment,desc", (), ["analysis=[alignment,descent"]),
    ("dtype=", (), ["dtype=float32", "dtype=float64"]),
    ("compile=", (), ["compile=true", "compile=false"]),
    ("autocast=", (), ["autocast=bfloat16", "autocast=null"]),
    ("batch_", (), ["batch_size="]),
    ("batch_", ("--help",), ["batch_size"]),
    ("sweep.c", (), ["sweep.canary="]),
    ("estimator", (), ["estimator=", "estimator."]),
    ("estimator.si", ("estimator=nes",), ["estimator.sigma="]),
    ("estimator.si", ("estimator=cdg",), []),
    ("++estimator.eps", ("estimator=cdg",), ["++estimator.epsilon="]),
    ("quantizer.weight.b", ("quantizer/weight=lsq",), ["quantizer.weight.bits="]),
    ("analysis.descent.n", (), ["analysis.descent.nulls="]),
    ("~optimizer.mom", (), ["~optimizer.momentum="]),
    ("size=f", ("experiment=descent_dims",), ["size=full"]),
    ("size=f", (), []),
    ("images=f", ("experiment=cifar_depth",), ["images=fashion_mnist"]),
    ("images=f", ("experiment=descent_dims",), []),
    ("--cat", (), ["--catalogue"]),
    ("nothing", (), []),
])  # fmt: skip
def test_completion_offers_every_word_that_fits_at_the_cursor(current, typed, found):
    assert candidates(current, typed) == found


def test_every_group_option_and_setting_is_offered_exactly_once():
    every = candidates("")
    assert len(every) == len(set(every)) and "estimator=" in every and "dim=" in every
    assert candidates("-") == ["-m", *FLAGS]
    assert candidates("dataset=") == [f"dataset={x}" for x in options("dataset")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(("line", "found"), [
    ("sa estimator=st_", ["st_gumbel"]),
    ("sa -m estimator=nes estimator.sig", ["estimator.sigma="]),
    ("sa --help batch_", ["batch_size"]),
    ("python -m sa.run dtype=", ["float32", "float64"]),
    ("python -m sa.run --catal", ["--catalogue"]),
    ("python other.py estim", []),
    ("python", []),
])  # fmt: skip
def test_bash_completes_the_word_at_the_cursor(tmp_path, line, found):
    for name, words in (("sa", "-m sa.run"), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (tmp_path / name).chmod(0o755)
    asked = f"""PATH={tmp_path}:$PATH
COMP_LINE="{line}" COMP_POINT={len(line)} COMP_WORDBREAKS=$' \\t\\n=:'
_sa_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p sa
"""
    script = f"{BASH}{asked}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    *words, registered = done.stdout.splitlines()
    assert [w for w in words if w] == found
    assert registered.endswith("-F _sa_completion sa")


def test_the_completion_script_is_printed_for_bash_and_other_shells_are_refused():
    def sa(*words):
        command = [sys.executable, "-m", "sa.run", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert sa("--completion", "bash").stdout == BASH + "\n"
    told = sa("--completion", "fish")
    assert told.returncode == 2 and "expected bash" in told.stderr
