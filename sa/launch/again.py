"""Repeats the unfinished points of a sweep: ``python -m sa.sweep retry NAME``."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sa.config import trust
from sa.config.error import UsageError
from sa.launch import slurm
from sa.launch.plan import LaunchError, rooted
from sa.launch.snapshot import paths
from sa.record import sweep, telling
from sa.record.config import read_config
from sa.sweep.status import AGAIN, ENDED, counted, states_of


def retry(root: Path, name: str, trusting: Sequence[str] = ()) -> int:
    """Repeat the points without a result, except those that another process is computing.

    They run here, one after another, with the sweep's copy of the code if it has one. A sweep that
    went to SLURM is submitted again by its command.

    Args:
        root: the folder of all runs and sweeps.
        name: the name of the sweep.
        trusting: packages that the person trusts, as typed behind ``--trust``.

    Raises:
        LaunchError: a point names a class of a package that the person does not trust.

    """
    try:
        trust.from_words([f"--trust={x}" for x in trusting])
    except UsageError as error:
        raise LaunchError(str(error)) from error
    about, points = sweep.read_manifest(root, name)
    states = states_of(root, points)
    _require_trust(root, name, [p for p, x in zip(points, states, strict=True) if x not in ENDED])
    folder = sweep.sweep_folder(root, name)
    if slurm.jobs(folder):
        return _repeat(root, about)
    folders = []
    for point, state in zip(points, states, strict=True):
        run_folder = root.absolute() / "runs" / point["run_id"]
        if state not in AGAIN:
            continue
        words = " ".join(point["overrides"])
        label = f"{point['index']:>4}  {run_folder.name}  {state:<11}  {words}"
        if (run_folder / "config.yaml").exists():
            folders.append(run_folder)
            print(label)
        else:
            print(f"{label}  (without config.yaml: repeat the -m command of the sweep)")
    if not folders:
        print(f"{name}: nothing to retry")
        return 0
    print(f"{name}: repeating {len(folders)} of {len(points)} points", flush=True)
    command = [sys.executable, "-m", "sa.run", "--frozen", *map(str, folders)]
    code = subprocess.run(command, env=os.environ | paths(folder)).returncode
    print(f"{name}: {counted(states_of(root, points))}")
    return 1 if code else 0


def _require_trust(root: Path, name: str, points: Sequence[dict[str, Any]]) -> None:
    """Raise LaunchError if a point names a class of a package that the person does not trust."""
    lacking = {
        package
        for point in points
        for package in trust.untrusted(read_config(root / "runs" / point["run_id"]))
    }
    if lacking:
        names = ",".join(sorted(lacking))
        raise LaunchError(
            f"{name}: its points name classes of '{names}', which you do not trust here. The "
            "records of a sweep never say whom to trust; if you do, type python -m sa.sweep retry "
            f"{name}{rooted(root)} --trust {names}"
        )


def _repeat(root: Path, about: dict[str, Any]) -> int:
    """Repeat the command of a sweep for this root, in the folder where it was typed.

    Relative paths and environment variables then mean what they meant the first time.
    """
    typed = {str(k): str(v) for k, v in (about.get("typed_in") or {}).items()}
    folder = Path(typed.pop("folder", "."))
    if not folder.is_dir():
        telling.note(
            f"the folder where this sweep was typed, {folder}, no longer exists: relative paths "
            "in its command now start from the current folder"
        )
        folder = Path()
    words = [str(w) for w in about.get("argv") or []]
    where = str(root.resolve()).replace("\\", r"\\").replace("'", r"\'")
    words = [w for w in words if not re.match(r"\+*root=", w)] + [f"root='{where}'"]
    print(f"repeating: python -m sa.run {shlex.join(words)}", flush=True)
    env = os.environ | typed | {"SA_ROOT": str(root.resolve())}
    python = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p]
    env |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, python))} if python else {}
    return subprocess.run([sys.executable, "-m", "sa.run", *words], env=env, cwd=folder).returncode
