"""Describes the code and the machine that compute a run."""

import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def meta(config: dict[str, Any]) -> dict[str, Any]:
    """Return commit, versions, machine, seed and the words of the command line."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    names = ("torch", "numpy", "hydra-core", "sa-lab")
    kept = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK")
    slurm = {k: v for k, v in os.environ.items() if k in kept}
    return {
        **commit(),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {k: version(k) for k in names},
        "seed": config["seed"],
        "argv": sys.argv[1:],
        "slurm": slurm,
    }


NOTE = "commit.json"
"""The file beside a copy of the code that holds what `commit` returned for the original."""

_COMMIT: dict[str, Any] = {}


def commit() -> dict[str, Any]:
    """Return the commit of the code that runs, and whether files differ from it (``dirty``).

    A sweep's copy of the code has the commit of the original. The commit is None if git does not
    know the code. git runs once in each process.
    """
    here = Path(__file__).resolve().parent
    code = here.parents[1]
    if not _COMMIT and (code / NOTE).exists():
        _COMMIT.update(json.loads((code / NOTE).read_text()))
    if not _COMMIT:
        _COMMIT.update(commit_of(Path(__file__)))
    return _COMMIT


@cache
def commit_of(path: Path) -> dict[str, Any]:
    """Return the commit of a file or folder, and whether its repository is changed (``dirty``).

    The commit is None if git does not know the file.
    """
    where, name = (path, ".") if path.is_dir() else (path.parent, path.name)

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(where), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", name)  # "" if the repository does not hold the file
    return {
        "commit": git("rev-parse", "HEAD") if tracked else None,
        "dirty": bool(tracked and git("status", "--porcelain", "--untracked-files=no")),
    }
